//! How the API shows dead letters and their groups.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::dead_letters::{DeadLetterHistory, Successor};
use crate::domain::encryption::unreadable;
use crate::domain::event::Event;
use crate::http::deliveries::{DeliveryStatusView, EventKeyView, FailedAttemptView};
use crate::http::request::json_or_text;
use crate::store::{DeadLetter, DeadLetterGroup, DeadLetterStatus, DeliveryRecord};

/// A dead letter in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterSummary {
    id: i64,
    stage: String,
    /// Short and stable.
    code: String,
    message: String,
    /// The group of dead letters with the same failure.
    group: GroupReference,
    status: DeadLetterStatusView,
    /// Why it was discarded.
    note: Option<String>,
    /// The subject of its event: `<kind>/<id>`.
    subject_key: Option<String>,
    event: DeadLetterEvent,
    /// Round in which it was dead-lettered, from 1.
    round: u32,
    /// SHA-256 of the plugin's file.
    digest: String,
    /// Milliseconds since 1970-01-01 UTC.
    dead_lettered_at_ms: u64,
    /// When it was replayed or discarded, milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
}

/// The group that a dead letter belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupReference {
    id: String,
    /// What the failures of the group have in common.
    fingerprint: String,
}

/// The status of a dead letter.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeadLetterStatus)]
pub(crate) enum DeadLetterStatusView {
    /// Waits for an operator.
    Open,
    /// Was replayed.
    Replayed,
    /// Was discarded.
    Discarded,
}

impl From<DeadLetterStatus> for DeadLetterStatusView {
    fn from(status: DeadLetterStatus) -> Self {
        match status {
            DeadLetterStatus::Open => Self::Open,
            DeadLetterStatus::Replayed => Self::Replayed,
            DeadLetterStatus::Discarded => Self::Discarded,
        }
    }
}

impl From<DeadLetterStatusView> for DeadLetterStatus {
    fn from(status: DeadLetterStatusView) -> Self {
        match status {
            DeadLetterStatusView::Open => Self::Open,
            DeadLetterStatusView::Replayed => Self::Replayed,
            DeadLetterStatusView::Discarded => Self::Discarded,
        }
    }
}

/// The event that was dead-lettered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterEvent {
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    source: String,
    subject: String,
    /// Milliseconds since 1970-01-01 UTC.
    time_ms: u64,
    content_type: String,
    /// CloudEvents extension attributes.
    attributes: BTreeMap<String, String>,
}

impl From<&Event> for DeadLetterEvent {
    fn from(event: &Event) -> Self {
        Self {
            event_type: event.event_type.clone(),
            id: event.id.clone(),
            source: event.source.clone(),
            subject: event.subject.clone(),
            time_ms: event.time_ms,
            content_type: event.content_type.clone(),
            attributes: event.attributes.iter().cloned().collect(),
        }
    }
}

impl From<&DeadLetter> for DeadLetterSummary {
    fn from(dead_letter: &DeadLetter) -> Self {
        Self {
            id: dead_letter.id,
            stage: dead_letter.stage.clone(),
            code: dead_letter.code.clone(),
            message: dead_letter.message.clone(),
            group: GroupReference {
                id: dead_letter.group.clone(),
                fingerprint: dead_letter.fingerprint.clone(),
            },
            status: dead_letter.status.into(),
            note: dead_letter.note.clone(),
            subject_key: dead_letter.envelope.subject_key.clone().map(Into::into),
            event: (&dead_letter.envelope.event).into(),
            round: dead_letter.round,
            digest: dead_letter.digest.clone(),
            dead_lettered_at_ms: dead_letter.dead_lettered_at_ms,
            settled_at_ms: dead_letter.settled_at_ms,
        }
    }
}

impl From<DeadLetter> for DeadLetterSummary {
    fn from(dead_letter: DeadLetter) -> Self {
        (&dead_letter).into()
    }
}

/// A dead letter with its body, its failed attempts and its successor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterView {
    #[serde(flatten)]
    summary: DeadLetterSummary,
    /// The event's body: JSON as it is, anything else as text; null for a principal that may not see
    /// payloads.
    data: Value,
    /// Why the body cannot be read: it was erased, or its key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    /// Failed attempts, oldest first.
    attempts: Vec<FailedAttemptView>,
    /// The first event of the chain.
    correlation_id: String,
    /// The event that caused this one.
    cause: Option<EventKeyView>,
    /// Milliseconds since 1970-01-01 UTC.
    expires_at_ms: u64,
    /// The result of its replay.
    replayed_as: Option<SuccessorView>,
}

/// The result of a replay.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Successor)]
pub(crate) struct SuccessorView {
    /// The event that was delivered: the same one, or the edited one.
    event: EventKeyView,
    /// Whether the body was edited.
    edited: bool,
    /// Its delivery; none when retention has deleted it.
    delivery: Option<SuccessorDelivery>,
}

/// The delivery of a replayed dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuccessorDelivery {
    status: DeliveryStatusView,
    /// From 1; every replay starts a new round.
    round: u32,
    /// Attempt under way or last made, from 1.
    attempt: u32,
    /// SHA-256 of the plugin's file that settled it.
    digest: Option<String>,
    /// The host that handled it last; null if no host did, or it was not recorded.
    host: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
}

impl DeadLetterView {
    /// `payloads`: with the event's body.
    pub(super) fn of(history: DeadLetterHistory, payloads: bool) -> Self {
        let DeadLetterHistory { dead_letter, successor } = history;
        let data = &dead_letter.envelope.event.data;
        let unreadable = unreadable(data).map(Cow::into_owned);
        let is_shown = payloads && unreadable.is_none();
        Self {
            summary: (&dead_letter).into(),
            data: if is_shown { json_or_text(data) } else { Value::Null },
            unreadable,
            attempts: dead_letter.attempts.into_iter().map(Into::into).collect(),
            correlation_id: dead_letter.envelope.correlation_id,
            cause: dead_letter.envelope.cause.map(Into::into),
            expires_at_ms: dead_letter.envelope.expires_at_ms,
            replayed_as: successor.map(Into::into),
        }
    }
}

impl From<Successor> for SuccessorView {
    fn from(Successor { event, edited, delivery }: Successor) -> Self {
        Self { event: event.into(), edited, delivery: delivery.map(Into::into) }
    }
}

impl From<DeliveryRecord> for SuccessorDelivery {
    fn from(delivery: DeliveryRecord) -> Self {
        let DeliveryRecord { status, round, attempt, digest, host, settled_at_ms, .. } = delivery;
        Self { status: status.into(), round, attempt, digest, host, settled_at_ms }
    }
}

/// Dead letters of one stage with the same failure.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterGroup)]
pub(crate) struct DeadLetterGroupView {
    /// Stable, and safe in a URL.
    id: String,
    stage: String,
    code: String,
    /// What the failures have in common.
    fingerprint: String,
    /// Dead letters that wait for an operator.
    open: u64,
    /// Dead letters that were replayed.
    replayed: u64,
    /// Dead letters that were discarded.
    discarded: u64,
    /// When the first of them was dead-lettered, milliseconds since 1970-01-01 UTC.
    first_at_ms: u64,
    /// When the last of them was dead-lettered, milliseconds since 1970-01-01 UTC.
    last_at_ms: u64,
    /// Digests of the plugins that failed.
    digests: Vec<String>,
    /// Id of the newest of them.
    example: i64,
}

impl From<DeadLetterGroup> for DeadLetterGroupView {
    fn from(group: DeadLetterGroup) -> Self {
        Self {
            id: group.id,
            stage: group.stage,
            code: group.code,
            fingerprint: group.fingerprint,
            open: group.open,
            replayed: group.replayed,
            discarded: group.discarded,
            first_at_ms: group.first_at_ms,
            last_at_ms: group.last_at_ms,
            digests: group.digests,
            example: group.example,
        }
    }
}
