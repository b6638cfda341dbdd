//! Events that wait for a stage: no stage consumed them when they were committed, and their subject is
//! unfinished. They are routed when a stage that consumes their type appears.

use std::sync::Arc;

use super::decode::{self, Columns};
use super::transaction::{IMMEDIATELY, WriteSet};
use super::{OutboxRow, StoreError};
use crate::domain::encryption::Encryption;

/// The events of one type that wait for a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnroutedEvents {
    /// The type.
    pub event_type: String,
    /// How many wait.
    pub count: u64,
    /// Since when the first of them waits, milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
}

/// Events of one type that a stage now consumes.
#[derive(Debug, Clone)]
pub struct Routing {
    /// The type.
    pub event_type: String,
    /// The stages that consume it.
    pub stages: Vec<Arc<str>>,
    /// The events expire no earlier than then, milliseconds since 1970-01-01 UTC: the wait does not
    /// count.
    pub expires_at_ms: u64,
    /// Maximum number of events.
    pub limit: u32,
}

/// What one call routed.
#[derive(Debug)]
pub struct Routed {
    /// Events that no longer wait, those of finished subjects included.
    pub events: u32,
    /// Rows that are due now and leased to this host.
    pub outbox: Vec<OutboxRow>,
}

/// The decision about one batch of waiting events, as positions in the log.
#[derive(Debug, Default)]
pub(super) struct RoutedEvents {
    /// Those that no longer wait.
    pub(super) all: Vec<i64>,
    /// Those of them that are sent: their subjects are unfinished.
    pub(super) sent: Vec<i64>,
    /// Rows that are due now and leased to this host.
    pub(super) outbox: Vec<OutboxRow>,
}

impl Routing {
    /// Adds what is sent to `write_set`. Each row has position, status of the subject, due
    /// time and envelope.
    pub(super) fn route<'a>(
        &'a self,
        rows: &[impl Columns],
        write_set: &mut WriteSet<'a>,
        encryption: &Encryption,
    ) -> Result<RoutedEvents, StoreError> {
        let (mut routed, kinds) = (RoutedEvents::default(), write_set.kinds());
        for row in rows {
            let seq = row.int(0)?;
            let mut envelope = decode::envelope(row, 3, encryption)?;
            routed.all.push(seq);
            let subject = envelope.subject_key.as_deref().zip(row.maybe_text(1)?);
            if subject.is_some_and(|(key, status)| kinds.is_finished(key, status)) {
                continue;
            }
            routed.sent.push(seq);
            let due_ms = row.maybe_int(2)?.map_or(IMMEDIATELY, |due_ms| due_ms as u64);
            envelope.expires_at_ms = envelope.expires_at_ms.max(self.expires_at_ms);
            routed.outbox.extend(write_set.route(seq, &Arc::new(envelope), &self.stages, due_ms));
        }
        Ok(routed)
    }
}

/// Counts waiting events by type, for [`decode`]: those whose subject's `<kind>/<status>` is not finished. At most
/// 10,000 are counted.
macro_rules! count_unrouted {
    ($is_unfinished:literal) => {
        concat!(
            "SELECT k.type, count(*), min(k.unrouted_ms) FROM (SELECT e.type, e.unrouted_ms FROM \
             events e LEFT JOIN subjects sub ON sub.key = e.subject_key WHERE e.unrouted_ms IS NOT NULL AND \
             (sub.key IS NULL OR sub.kind || '/' || sub.status ",
            $is_unfinished,
            ") LIMIT 10000) k GROUP BY k.type ORDER BY k.type"
        )
    };
}
pub(super) use count_unrouted;

pub(super) fn decode(rows: &[impl Columns]) -> Result<Vec<UnroutedEvents>, StoreError> {
    let decoded = rows.iter().map(|row| {
        Ok(UnroutedEvents {
            event_type: row.owned(0)?,
            count: row.unsigned(1)?,
            since_ms: row.unsigned(2)?,
        })
    });
    decoded.collect()
}
