//! Dead letters as every store keeps them: a dead letter, what picks several, and the groups of those
//! that died of the same.

use super::{FailedAttempt, OutboxRow};
use crate::domain::event::{Envelope, EventKey};

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id.
    pub id: i64,
    /// The delivery that died.
    pub stage: String,
    /// The event that died.
    pub envelope: Envelope,
    /// Round in which it died.
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
    /// The event that an edited replay put in its place.
    pub replayed_as: Option<EventKey>,
    /// Failed tries of the delivery, oldest first.
    pub attempts: Vec<FailedAttempt>,
}

/// Where a dead letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterStatus {
    /// Waits for somebody.
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
    /// Only this order's.
    pub order: Option<String>,
    /// Only what died then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only what died before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// Cursor: the last id of the page before.
    pub before: Option<i64>,
    /// Page size.
    pub limit: u32,
}

/// What became of a replay or a discard.
#[derive(Debug)]
pub enum DeadLetterAction {
    /// Done; rows to hand to the relay.
    Done(Vec<OutboxRow>),
    /// It was replayed or discarded before: nothing was changed.
    AlreadySettled(DeadLetterStatus),
    /// There is none of this id.
    NotFound,
}

/// Dead letters of one stage that died of the same.
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
    /// Letters that wait for somebody.
    pub open: u64,
    /// Letters that were replayed.
    pub replayed: u64,
    /// Letters that were discarded.
    pub discarded: u64,
    /// When the first of them died, milliseconds since 1970-01-01 UTC.
    pub first_at_ms: u64,
    /// When the last of them died, milliseconds since 1970-01-01 UTC.
    pub last_at_ms: u64,
    /// Digests of the plugins that they died in.
    pub digests: Vec<String>,
    /// The newest of them.
    pub example: i64,
}

/// How many dead letters there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// So many.
    pub count: u64,
    /// Id of the newest; 0 when there are none.
    pub last: i64,
}
