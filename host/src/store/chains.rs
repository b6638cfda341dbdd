//! Chains of events: how many events were emitted in each of the large ones, on all hosts, and which
//! ones operators stopped.
//!
//! A row is written for a chain that is large or was stopped, never for an ordinary one. Bounds: one
//! row for each such chain until retention deletes it, and [`CHAINS_MAX`] rows in an answer.

use std::sync::Arc;

use serde_json::json;

use super::decode::Columns;
use super::{AuditEntry, StoreError};
use crate::domain::actor::Actor;

/// Most chains in an answer, and most stops that hosts apply.
pub const CHAINS_MAX: usize = 4_096;

/// Events of a chain that a host counted since it last recorded them.
#[derive(Debug, Clone)]
pub struct ChainCount {
    /// Id of the chain's first event.
    pub correlation_id: Arc<str>,
    /// How many; negative when the host had recorded events whose commit was refused.
    pub events: i64,
    /// When the first one was emitted, milliseconds since 1970-01-01 UTC.
    pub first_at_ms: u64,
    /// When the last one was emitted, milliseconds since 1970-01-01 UTC.
    pub last_at_ms: u64,
}

/// A chain as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRecord {
    /// Id of the chain's first event.
    pub correlation_id: Arc<str>,
    /// Events that stages emitted in it, as far as hosts recorded them, since it began or was last
    /// resumed.
    pub events: u64,
    /// When the first one was emitted, milliseconds since 1970-01-01 UTC.
    pub first_at_ms: u64,
    /// When the last one was emitted, milliseconds since 1970-01-01 UTC.
    pub last_at_ms: u64,
    /// When this was last changed, milliseconds since 1970-01-01 UTC.
    pub changed_at_ms: u64,
    /// The operator's stop, if it is stopped.
    pub stop: Option<ChainStop>,
}

/// That an operator stopped a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainStop {
    /// When, milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Why.
    pub reason: Option<String>,
}

macro_rules! columns {
    () => {
        "correlation_id, events, first_ms, last_ms, changed_ms, stopped_ms, reason"
    };
}

/// What a count does to the row that there is.
macro_rules! add {
    () => {
        " ON CONFLICT (correlation_id) DO UPDATE SET events = c.events + excluded.events, last_ms = \
         excluded.last_ms, changed_ms = excluded.changed_ms"
    };
}

/// Adds a count: correlation id, events, first, last, now.
#[cfg(feature = "sqlite")]
pub(super) const COUNT: &str = concat!(
    "INSERT INTO chains AS c (correlation_id, events, first_ms, last_ms, changed_ms) VALUES ($1, \
     $2, $3, $4, $5)",
    add!()
);

/// Adds counts: now, then a list of each column.
#[cfg(feature = "postgres")]
pub(super) const COUNT_ALL: &str = concat!(
    "INSERT INTO chains AS c (correlation_id, events, first_ms, last_ms, changed_ms) SELECT k.id, \
     k.events, k.first_ms, k.last_ms, $1::int8 FROM unnest($2::text[], $3::int8[], $4::int8[], \
     $5::int8[]) k (id, events, first_ms, last_ms) ORDER BY k.id",
    add!()
);

/// Stops a chain and returns it: correlation id, reason, now.
pub(super) const STOP: &str = concat!(
    "INSERT INTO chains AS c (correlation_id, events, first_ms, last_ms, changed_ms, stopped_ms, \
     reason) VALUES ($1, 0, $3, $3, $3, $3, $2) ON CONFLICT (correlation_id) DO UPDATE SET \
     stopped_ms = coalesce(c.stopped_ms, excluded.stopped_ms), reason = excluded.reason, changed_ms \
     = excluded.changed_ms RETURNING ",
    columns!()
);

/// Lets a chain run again, counted from zero, and returns it: correlation id, now.
pub(super) const RESUME: &str = concat!(
    "INSERT INTO chains AS c (correlation_id, events, first_ms, last_ms, changed_ms) VALUES ($1, 0, \
     $2, $2, $2) ON CONFLICT (correlation_id) DO UPDATE SET events = 0, stopped_ms = NULL, reason = \
     NULL, changed_ms = excluded.changed_ms RETURNING ",
    columns!()
);

/// The stopped chains, and those that changed at or after a time, the newest first: time, limit.
pub(super) const CHANGED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM chains WHERE stopped_ms IS NOT NULL OR changed_ms >= $1 ORDER BY stopped_ms IS NULL, \
     changed_ms DESC LIMIT $2"
);

/// When a chain was stopped: correlation id.
pub(super) const STOPPED: &str = "SELECT stopped_ms FROM chains WHERE correlation_id = $1";

/// The record of a change in the audit log, given the row of the chain before.
pub(super) fn audited(
    actor: &Actor,
    correlation_id: &str,
    before: Option<&impl Columns>,
    stopped: bool,
) -> Result<AuditEntry, StoreError> {
    let was_stopped = match before {
        Some(row) => row.maybe_int(0)?.is_some(),
        None => false,
    };
    let action = if stopped { "chain.stop" } else { "chain.resume" };
    let entry = AuditEntry::new(actor, action, format!("chain/{correlation_id}"));
    Ok(entry.change(json!({ "stopped": was_stopped }), json!({ "stopped": stopped })))
}

/// Decodes the columns of [`CHANGED`].
pub(super) fn decode(row: &impl Columns) -> Result<ChainRecord, StoreError> {
    let stopped_at_ms = row.maybe_int(5)?.map(|at_ms| at_ms as u64);
    let reason = row.maybe_owned(6)?;
    Ok(ChainRecord {
        correlation_id: row.text(0)?.into(),
        // Below zero while one host has taken back what another is about to record.
        events: row.int(1)?.max(0) as u64,
        first_at_ms: row.unsigned(2)?,
        last_at_ms: row.unsigned(3)?,
        changed_at_ms: row.unsigned(4)?,
        stop: stopped_at_ms.map(|at_ms| ChainStop { at_ms, reason }),
    })
}
