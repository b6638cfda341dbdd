//! Dead letters as every store keeps them, their filters, and their groups by fingerprint.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::decode::dead_letter_status_name;
use super::{AuditEntry, FailedAttempt, NewEvent, OutboxRow};
use crate::domain::actor::Actor;
use crate::domain::event::{Envelope, EventKey, hex};
use crate::domain::subject::SubjectKey;

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id.
    pub id: i64,
    /// The delivery's stage.
    pub stage: String,
    /// The delivery's event.
    pub envelope: Envelope,
    /// The delivery's round.
    pub round: u32,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// Digest of the plugin.
    pub digest: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub dead_lettered_at_ms: u64,
    /// `open`, `replayed` or `discarded`.
    pub status: DeadLetterStatus,
    /// Why it was discarded.
    pub note: Option<String>,
    /// The failure without its variable parts, for people.
    pub fingerprint: String,
    /// Id of the group: all dead letters of this stage, code and fingerprint.
    pub group: String,
    /// When it was replayed or discarded, milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: Option<u64>,
    /// The event that an edited replay created.
    pub replayed_as: Option<EventKey>,
    /// Failed attempts of the delivery, oldest first.
    pub attempts: Vec<FailedAttempt>,
}

/// The status of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterStatus {
    /// Neither replayed nor discarded.
    Open,
    /// Was replayed.
    Replayed,
    /// Was discarded.
    Discarded,
}

/// Filters of the dead-letter list, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only this stage.
    pub stage: Option<String>,
    /// Only this code.
    pub code: Option<String>,
    /// Only this status.
    pub status: Option<DeadLetterStatus>,
    /// Only this group.
    pub group: Option<String>,
    /// Only this subject's.
    pub subject: Option<SubjectKey>,
    /// Only those dead-lettered then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only those dead-lettered before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// Cursor: the last id of the page before.
    pub before: Option<i64>,
    /// Page size.
    pub limit: u32,
}

/// The result of a replay or a discard.
#[derive(Debug)]
pub enum DeadLetterAction {
    /// Done; rows to hand to the relay.
    Done(Vec<OutboxRow>),
    /// It was replayed or discarded before: nothing was changed.
    AlreadySettled(DeadLetterStatus),
    /// No dead letter has this id.
    NotFound,
}

/// Dead letters of one stage with the same code and fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterGroup {
    /// Its id: stable, and safe in a URL.
    pub id: String,
    /// The stage.
    pub stage: String,
    /// The code.
    pub code: String,
    /// The failure without its variable parts, for people.
    pub fingerprint: String,
    /// Number of open ones.
    pub open: u64,
    /// Number of replayed ones.
    pub replayed: u64,
    /// Number of discarded ones.
    pub discarded: u64,
    /// When the first one was dead-lettered, milliseconds since 1970-01-01 UTC.
    pub first_at_ms: u64,
    /// When the last one was dead-lettered, milliseconds since 1970-01-01 UTC.
    pub last_at_ms: u64,
    /// Digests of the plugins that failed.
    pub digests: Vec<String>,
    /// Id of the newest one.
    pub example: i64,
}

/// Number of dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// Their number.
    pub count: u64,
    /// Id of the newest; 0 when there are none.
    pub last: i64,
}

/// The record of a settled dead letter in the audit log.
pub(super) fn audited(actor: &Actor, action: &'static str, id: i64) -> AuditEntry {
    let after = match action {
        "dead-letter.discard" => DeadLetterStatus::Discarded,
        _ => DeadLetterStatus::Replayed,
    };
    let status = |status| json!({ "status": dead_letter_status_name(status) });
    AuditEntry::new(actor, action, format!("dead-letter/{id}"))
        .change(status(DeadLetterStatus::Open), status(after))
}

/// The same, of an edited replay: with the event that was sent instead.
pub(super) fn audited_edit(actor: &Actor, id: i64, event: &NewEvent) -> AuditEntry {
    let mut entry = audited(actor, "dead-letter.edit", id);
    if let Some(after) = &mut entry.after {
        let event = &event.envelope.event;
        after["event"] = json!({
            "source": event.source,
            "id": event.id,
            "type": event.event_type,
            "data_sha256": hex(&Sha256::digest(&event.data)),
        });
    }
    entry
}
