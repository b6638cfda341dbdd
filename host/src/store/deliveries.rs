//! Deliveries: an event at a stage, its attempts, and what settles it.

use std::sync::Arc;

use crate::domain::event::{DeliveryKey, Envelope, EventKey};

/// The identity of work: one attempt at a delivery. Two copies of a delivery are the same work only
/// if they agree in all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// The event and its stage.
    pub delivery: DeliveryKey,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
}

/// The status of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Not settled yet.
    Open,
    /// The stage succeeded.
    Done,
    /// Not for this version of the stage, or stopped by a cancellation.
    Skipped,
    /// Dead-lettered.
    Dead,
    /// Dead-lettered and replayed as an edited event.
    Replaced,
}

/// One event at one stage, with its history.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// The stage.
    pub stage: String,
    /// The event.
    pub event: EventKey,
    /// Its type.
    pub event_type: String,
    /// Its status.
    pub status: DeliveryStatus,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// The current or last attempt, from 1.
    pub attempt: u32,
    /// Plugin version that settled it.
    pub version: Option<String>,
    /// Digest that settled it.
    pub digest: Option<String>,
    /// The host that handled it last: ran it, skipped it or deferred it. None: no host did, or a
    /// version of the program that did not record it.
    pub host: Option<String>,
    /// Microseconds spent in the stage on the settling attempt.
    pub duration_us: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: Option<u64>,
    /// Ids of the events it emitted.
    pub emitted: Vec<String>,
    /// Failed attempts, oldest first.
    pub failures: Vec<FailedAttempt>,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// Symbolised guest backtrace.
    pub backtrace: Option<String>,
    /// Digest of the plugin that failed.
    pub digest: String,
    /// The host that ran it. None: no host did, or a version of the program that did not record it.
    pub host: Option<Arc<str>>,
    /// Microseconds spent in the stage.
    pub duration_us: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
}

/// The address of a delivery that is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// The stage.
    pub stage: Arc<str>,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// The attempt to run, from 1.
    pub attempt: u32,
}

/// Which open deliveries without an outbox row the reconciler looks for.
#[derive(Debug, Clone, Copy)]
pub struct LostDeliveries {
    /// Only those queued before then, milliseconds since 1970-01-01 UTC.
    pub queued_before_ms: u64,
    /// Only those queued at least so long ago, by the store's clock.
    pub min_age_ms: u64,
    /// Maximum number.
    pub limit: u32,
    /// No further ones once the data of their events has this many bytes.
    pub max_bytes: u64,
}

impl LostDeliveries {
    /// Both limits at the time `now_ms` of the store.
    pub(crate) fn queued_before_ms(&self, now_ms: u64) -> u64 {
        let aged = (now_ms + 1).saturating_sub(self.min_age_ms);
        let latest = if self.min_age_ms == 0 { u64::MAX } else { aged };
        self.queued_before_ms.min(latest).min(i64::MAX as u64)
    }
}

/// Which open deliveries a stage reads ahead.
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    /// Only those queued before then, milliseconds since 1970-01-01 UTC.
    pub before_ms: u64,
    /// Maximum number.
    pub limit: u32,
    /// No further ones once the data of their events has this many bytes.
    pub max_bytes: u64,
}

/// A delivery that is not settled.
#[derive(Debug, Clone)]
pub struct OpenDelivery {
    /// Its event.
    pub envelope: Arc<Envelope>,
    /// Round, from 1.
    pub round: u32,
    /// The attempt that is due, from 1.
    pub attempt: u32,
    /// When it was queued last, milliseconds since 1970-01-01 UTC.
    pub queued_at_ms: u64,
}
