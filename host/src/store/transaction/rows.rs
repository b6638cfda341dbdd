//! Rows as a plan holds them: what a database's module binds and writes.

use crate::domain::event::Envelope;
use crate::domain::failure_fingerprint::FailureFingerprint;
use crate::store::{DeliveryStatus, Direct, FailedAttempt, NewOrder, Version};

/// A new order.
pub(in crate::store) struct OrderRow<'a>(pub(in crate::store) &'a NewOrder);

/// An event of the log.
pub(in crate::store) struct EventRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) envelope: &'a Envelope,
    pub(in crate::store) routed_to: Vec<&'a str>,
    pub(in crate::store) producer: Option<(&'a str, &'a str)>,
    /// When it falls due; none: at once.
    pub(in crate::store) due_ms: Option<u64>,
}

/// A delivery that begins.
pub(in crate::store) struct OpenedRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) queued_ms: u64,
}

/// A delivery after a try, whole.
pub(in crate::store) struct DeliveryRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) round: u32,
    pub(in crate::store) attempt: u32,
    /// Round and attempt of the open row that this one takes the place of; none: there is no row.
    pub(in crate::store) expected: Option<(u32, u32)>,
    pub(in crate::store) status: DeliveryStatus,
    pub(in crate::store) settled: Option<SettledBy<'a>>,
    pub(in crate::store) emitted: Vec<&'a str>,
    pub(in crate::store) created_ms: u64,
    pub(in crate::store) queued_ms: u64,
}

/// Who settled a delivery, and when.
pub(in crate::store) struct SettledBy<'a> {
    pub(in crate::store) version: &'a str,
    pub(in crate::store) digest: &'a str,
    pub(in crate::store) duration_us: u64,
    pub(in crate::store) at_ms: u64,
}

/// An outbox row.
pub(in crate::store) struct OutboxInsert {
    pub(in crate::store) id: i64,
    pub(in crate::store) seq: i64,
    pub(in crate::store) due_ms: u64,
    pub(in crate::store) leased: bool,
    pub(in crate::store) direct: Option<Direct>,
}

/// A state key after a write.
pub(in crate::store) struct StateRow<'a> {
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) key: &'a str,
    pub(in crate::store) value: Option<&'a [u8]>,
    pub(in crate::store) version: Version,
}

/// A failed try.
pub(in crate::store) struct AttemptRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) failure: &'a FailedAttempt,
}

/// What is kept of a settled delivery.
pub(in crate::store) struct RecordingRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) body: &'a str,
}

/// A new dead letter.
pub(in crate::store) struct DeadRow<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) stage: &'a str,
    pub(in crate::store) round: u32,
    pub(in crate::store) code: &'a str,
    pub(in crate::store) message: &'a str,
    pub(in crate::store) digest: &'a str,
    pub(in crate::store) fingerprint: FailureFingerprint,
}

/// An event that may move an order's status.
pub(in crate::store) struct Move<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) order: &'a str,
    pub(in crate::store) event_type: &'a str,
    /// An order that it does not move is a decision that no longer holds.
    pub(in crate::store) must: bool,
}
