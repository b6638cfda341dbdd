//! Rows of a write set: what a database's module binds and writes.

use std::sync::Arc;

use super::read_set::DeliveryState;
use crate::domain::event::Envelope;
use crate::domain::failure_fingerprint::FailureFingerprint;
use crate::store::{DeliveryStatus, Direct, FailedAttempt, NewSubject, Version};

/// A new subject.
pub(crate) struct SubjectRow<'a>(pub(crate) &'a NewSubject);

/// An event of the log.
pub(crate) struct EventRow<'a> {
    pub(crate) seq: i64,
    pub(crate) envelope: &'a Envelope,
    pub(crate) routed_to: Vec<&'a str>,
    /// Stage and digest.
    pub(crate) producer: Option<(&'a str, &'a str)>,
    /// When a scheduled event is sent; none: immediately.
    pub(crate) due_ms: Option<u64>,
    /// No stage consumes it, and its subject waits for one.
    pub(crate) unrouted: bool,
    /// Its key was free when the group was decided, and the decision depends on it.
    pub(crate) must_be_new: bool,
}

/// A new delivery.
pub(crate) struct OpenDeliveryRow<'a> {
    pub(crate) seq: i64,
    pub(crate) stage: &'a Arc<str>,
    pub(crate) queued_ms: u64,
}

impl OpenDeliveryRow<'_> {
    /// What a compare-and-set of the first attempt needs to know.
    pub(crate) fn state(&self, now_ms: u64) -> DeliveryState {
        let Self { queued_ms, .. } = *self;
        DeliveryState { open: true, round: 1, attempt: 1, created_ms: now_ms, queued_ms }
    }
}

/// A delivery after an attempt, with all its columns.
pub(crate) struct DeliveryRow<'a> {
    pub(crate) seq: i64,
    pub(crate) stage: &'a str,
    pub(crate) subject: Option<&'a str>,
    pub(crate) round: u32,
    pub(crate) attempt: u32,
    /// Round and attempt of the open row that this one replaces; none: there is no row.
    pub(crate) expected: Option<(u32, u32)>,
    pub(crate) status: DeliveryStatus,
    pub(crate) settled: Option<SettledBy<'a>>,
    /// The host that made the attempt.
    pub(crate) host: Option<&'a str>,
    pub(crate) emitted: Vec<&'a str>,
    pub(crate) created_ms: u64,
    pub(crate) queued_ms: u64,
}

impl DeliveryRow<'_> {
    /// What a compare-and-set of the next attempt needs to know.
    pub(crate) fn state(&self) -> DeliveryState {
        DeliveryState {
            open: self.status == DeliveryStatus::Open,
            round: self.round,
            attempt: self.attempt,
            created_ms: self.created_ms,
            queued_ms: self.queued_ms,
        }
    }
}

/// The plugin that settled a delivery, and when.
pub(crate) struct SettledBy<'a> {
    pub(crate) version: &'a str,
    pub(crate) digest: &'a str,
    pub(crate) duration_us: u64,
    pub(crate) at_ms: u64,
}

/// A new outbox row.
pub(crate) struct OutboxInsert {
    pub(crate) id: i64,
    pub(crate) seq: i64,
    pub(crate) due_ms: u64,
    /// Whether this host sends it right after the commit.
    pub(crate) leased: bool,
    pub(crate) direct: Option<Direct>,
}

/// A state key with the version that it has after a write, or that was read.
pub(crate) struct StateWrite<'a> {
    pub(crate) stage: &'a str,
    pub(crate) key: &'a str,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) version: Version,
}

/// A failed attempt.
pub(crate) struct AttemptRow<'a> {
    pub(crate) seq: i64,
    pub(crate) stage: &'a str,
    pub(crate) failure: &'a FailedAttempt,
    /// Of the delivery.
    pub(crate) envelope: &'a Envelope,
}

/// The recording of a settled delivery.
pub(crate) struct RecordingRow<'a> {
    pub(crate) seq: i64,
    pub(crate) stage: &'a str,
    pub(crate) body: &'a str,
    /// Of the delivery.
    pub(crate) envelope: &'a Envelope,
}

/// A new dead letter.
pub(crate) struct DeadLetterRow<'a> {
    pub(crate) seq: i64,
    pub(crate) stage: &'a str,
    pub(crate) round: u32,
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    pub(crate) digest: &'a str,
    pub(crate) fingerprint: FailureFingerprint,
    /// Of the delivery.
    pub(crate) envelope: &'a Envelope,
}

/// An event that may change its subject's status.
pub(crate) struct StatusEvent<'a> {
    pub(crate) seq: i64,
    pub(crate) subject: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) effect: Effect,
}

/// Whether a [`StatusEvent`] has to change the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A subject whose status it does not change is left as it is.
    Optional,
    /// If it does not change the status, the decision no longer holds.
    Required,
}
