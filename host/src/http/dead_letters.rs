//! `/dead-letters`: what needs a person: list, groups, show, replay (as it was, or edited),
//! discard; many at once in `jobs`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::fields::Fields;
use super::json::{JsonBody, payload};
use super::lists::{Listing, QueryValidator};
use super::openapi::{instant_schema, page_size_schema, position_schema};
use super::paths::LetterId;
use super::problem::{Answer, Kind, Problem};
use crate::app::dead_letters::{Edit, LetterStory, Replayed, Successor};
use crate::domain::event::EventKey;
use crate::store::{
    DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterGroup, DeadLetterStatus,
    DeliveryRecord, DeliveryStatus, FailedAttempt,
};

mod jobs;

pub(super) use self::jobs::*;

/// Which dead letters; also of groups.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this stage.
    stage: Option<String>,
    /// Only those with this code.
    code: Option<String>,
    /// Only those that stand so.
    status: Option<DeadLetterStatus>,
    /// Only those of this group.
    group: Option<String>,
    /// Only those of this order.
    #[serde(alias = "order_id")]
    order: Option<String>,
    /// Only those that died then or later.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Only those that died before then.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the page before.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

impl ListQuery {
    /// Every problem of the query at once.
    fn filter(self) -> Answer<DeadLetterFilter> {
        let mut checked = QueryValidator::default();
        let filter = DeadLetterFilter {
            since_ms: checked.instant("since", self.since.as_deref()),
            until_ms: checked.instant("until", self.until.as_deref()),
            before: checked.position("cursor", self.cursor),
            limit: checked.limit(self.limit),
            stage: self.stage,
            code: self.code,
            status: self.status,
            group: self.group,
            order: self.order,
        };
        checked.finish().map(|()| filter)
    }
}

/// A dead letter in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetterSummary {
    id: i64,
    stage: String,
    /// Short and stable.
    code: String,
    message: String,
    /// All dead letters of this stage, code and cause.
    group: GroupReference,
    status: DeadLetterStatus,
    /// Why it was discarded.
    note: Option<String>,
    order_id: Option<String>,
    event: DeadEvent,
    /// Round in which it died, from 1.
    round: u32,
    /// SHA-256 of the plugin's file.
    digest: String,
    /// Milliseconds since 1970-01-01 UTC.
    died_at_ms: u64,
    /// When it was replayed or discarded, milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
}

/// The group that a dead letter belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupReference {
    id: String,
    /// What they died of.
    cause: String,
}

/// The event that died.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadEvent {
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    source: String,
    subject: String,
    /// Milliseconds since 1970-01-01 UTC.
    time_ms: u64,
    content_type: String,
    attributes: BTreeMap<String, String>,
}

/// A dead letter with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetterView {
    #[serde(flatten)]
    summary: DeadLetterSummary,
    /// The event's body: JSON as it is, anything else as text.
    data: Value,
    /// Failed tries, oldest first.
    attempts: Vec<FailedAttempt>,
    /// The event that began the chain.
    correlation_id: String,
    /// The event that this one came of.
    cause: Option<EventKey>,
    /// Milliseconds since 1970-01-01 UTC.
    expires_at_ms: u64,
    /// What became of a replayed one.
    replayed_as: Option<SuccessorView>,
}

/// What a replayed dead letter became.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SuccessorView {
    event: EventKey,
    /// Whether the body was edited.
    edited: bool,
    /// How it goes; none when retention took it.
    delivery: Option<SuccessorDelivery>,
}

/// How a replayed dead letter goes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SuccessorDelivery {
    status: DeliveryStatus,
    /// Replays so far, from 1.
    round: u32,
    /// Attempt under way or last made, from 1.
    attempt: u32,
    /// SHA-256 of the plugin's file that settled it.
    digest: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
}

impl DeadLetterSummary {
    fn of(dead_letter: &DeadLetter) -> Self {
        let event = &dead_letter.envelope.event;
        Self {
            id: dead_letter.id,
            stage: dead_letter.stage.clone(),
            code: dead_letter.code.clone(),
            message: dead_letter.message.clone(),
            group: GroupReference {
                id: dead_letter.group.clone(),
                cause: dead_letter.fingerprint.clone(),
            },
            status: dead_letter.status,
            note: dead_letter.note.clone(),
            order_id: dead_letter.envelope.order_id.clone(),
            event: DeadEvent {
                event_type: event.event_type.clone(),
                id: event.id.clone(),
                source: event.source.clone(),
                subject: event.subject.clone(),
                time_ms: event.time_ms,
                content_type: event.content_type.clone(),
                attributes: event.attributes.iter().cloned().collect(),
            },
            round: dead_letter.round,
            digest: dead_letter.digest.clone(),
            died_at_ms: dead_letter.dead_lettered_at_ms,
            settled_at_ms: dead_letter.settled_at_ms,
        }
    }
}

impl DeadLetterView {
    fn of(history: LetterStory) -> Self {
        let LetterStory { dead_letter, successor } = history;
        Self {
            summary: DeadLetterSummary::of(&dead_letter),
            data: payload(&dead_letter.envelope.event.data),
            attempts: dead_letter.attempts,
            correlation_id: dead_letter.envelope.correlation_id,
            cause: dead_letter.envelope.cause,
            expires_at_ms: dead_letter.envelope.expires_at_ms,
            replayed_as: successor.map(SuccessorView::of),
        }
    }
}

impl SuccessorView {
    fn of(successor: Successor) -> Self {
        let Successor { event, edited, delivery } = successor;
        Self { event, edited, delivery: delivery.map(SuccessorDelivery::of) }
    }
}

impl SuccessorDelivery {
    fn of(delivery: DeliveryRecord) -> Self {
        let DeliveryRecord { status, round, attempt, digest, settled_at_ms, .. } = delivery;
        Self { status, round, attempt, digest, settled_at_ms }
    }
}

/// Dead letters, newest first.
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", params(ListQuery),
    responses((status = 200, body = Listing<DeadLetterSummary>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Listing<DeadLetterSummary>>> {
    let Query(query) = query?;
    let page = app.dead_letters().list(query.filter()?).await?;
    Ok(Json(Listing {
        items: page.items.iter().map(DeadLetterSummary::of).collect(),
        next: page.next,
    }))
}

/// Groups of dead letters that died of the same, by their newest dead letter.
#[utoipa::path(get, path = "/dead-letters/groups", tag = "dead letters", params(ListQuery),
    responses((status = 200, body = Listing<DeadLetterGroup>)))]
pub(super) async fn groups(
    State(app): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Listing<DeadLetterGroup>>> {
    let Query(query) = query?;
    let page = app.dead_letters().groups(query.filter()?).await?;
    Ok(Json(Listing { items: page.items, next: page.next }))
}

/// One dead letter: its event, its tries, and what became of it.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", params(LetterId),
    responses((status = 200, body = DeadLetterView), (status = 404, description = "No dead letter has this id", body = Problem)))]
pub(super) async fn show(
    State(app): State<Shared>,
    Path(LetterId(id)): Path<LetterId>,
) -> Answer<Json<DeadLetterView>> {
    let history = app.dead_letters().dead_letter(id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(DeadLetterView::of(history)))
}

fn missing(id: i64) -> Problem {
    Problem::not_found(format!("no dead letter {id}"))
}

/// A dead letter that was replayed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LetterReplayed {
    id: i64,
    /// `replayed`.
    status: &'static str,
    /// Whether another event took its place.
    edited: bool,
    /// That event.
    event: Option<EventKey>,
}

/// A dead letter that was discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LetterDiscarded {
    id: i64,
    /// `discarded`.
    status: &'static str,
}

/// Runs a dead letter again, as it was or with another body.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", tag = "dead letters", params(LetterId),
    request_body = ref("#/components/schemas/Replay"),
    responses(
        (status = 200, body = LetterReplayed),
        (status = 404, description = "No dead letter has this id", body = Problem),
        (status = 409, description = "It is settled already, or its body cannot be patched", body = Problem),
    ))]
pub(super) async fn replay(
    State(app): State<Shared>,
    Path(LetterId(id)): Path<LetterId>,
    JsonBody(body): JsonBody,
) -> Answer<Json<LetterReplayed>> {
    let mut fields = Fields::optional(body, &["data", "edit"]);
    let edit = match (fields.take_any("data"), fields.take_any("edit")) {
        (None, None) => Edit::None,
        (Some(data), None) => Edit::Body(data),
        (None, Some(patch)) => Edit::Patch(patch),
        (Some(_), Some(_)) => {
            fields.problem(
                "/edit",
                "stands beside `data`: give the new body or a merge patch, not both",
            );
            Edit::None
        }
    };
    fields.finish("a wish to replay")?;
    match app.dead_letters().replay(id, &edit).await? {
        Replayed::Settled { action, event } => {
            settle(id, action)?;
            Ok(Json(LetterReplayed { id, status: "replayed", edited: event.is_some(), event }))
        }
        Replayed::NotEditable(why) => Err(Problem::new(
            Kind::NotEditable,
            format!("dead letter {id}: {why}; nothing was changed"),
        )),
    }
}

/// Closes a dead letter for good.
#[utoipa::path(post, path = "/dead-letters/{id}/discard", tag = "dead letters", params(LetterId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = LetterDiscarded),
        (status = 404, description = "No dead letter has this id", body = Problem),
        (status = 409, description = "It is settled already", body = Problem),
    ))]
pub(super) async fn discard(
    State(app): State<Shared>,
    Path(LetterId(id)): Path<LetterId>,
    JsonBody(body): JsonBody,
) -> Answer<Json<LetterDiscarded>> {
    let mut fields = Fields::optional(body, &["reason"]);
    let reason = fields.reason();
    fields.finish("a wish to discard")?;
    settle(
        id,
        app.dead_letters().discard(id, reason.as_deref().unwrap_or("no reason given")).await?,
    )?;
    Ok(Json(LetterDiscarded { id, status: "discarded" }))
}

fn settle(id: i64, action: DeadLetterAction) -> Answer<()> {
    match action {
        DeadLetterAction::Done(_) => Ok(()),
        DeadLetterAction::NotFound => Err(missing(id)),
        DeadLetterAction::AlreadySettled(status) => {
            let detail = format!(
                "dead letter {id} is {} already; nothing was changed",
                json!(status).as_str().unwrap_or("settled")
            );
            Err(Problem::new(Kind::DeadLetterSettled, detail))
        }
    }
}
