//! Views of deliveries, for subjects and dead letters.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::event::EventKey;
use crate::store::{DeliveryRecord, DeliveryStatus, FailedAttempt};

/// Names an event: ids are unique per source only.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventKey)]
pub(crate) struct EventKeyView {
    source: String,
    id: String,
}

impl From<EventKey> for EventKeyView {
    fn from(EventKey { source, id }: EventKey) -> Self {
        Self { source, id }
    }
}

/// The state of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeliveryStatus)]
pub(crate) enum DeliveryStatusView {
    /// Not settled yet.
    Open,
    /// The stage decided.
    Done,
    /// This version of the stage does not consume the event, or the subject was cancelled first.
    Skipped,
    /// Dead-lettered.
    Dead,
    /// Dead-lettered, and replayed as an edited event.
    Replaced,
}

impl From<DeliveryStatus> for DeliveryStatusView {
    fn from(status: DeliveryStatus) -> Self {
        match status {
            DeliveryStatus::Open => Self::Open,
            DeliveryStatus::Done => Self::Done,
            DeliveryStatus::Skipped => Self::Skipped,
            DeliveryStatus::Dead => Self::Dead,
            DeliveryStatus::Replaced => Self::Replaced,
        }
    }
}

/// One event at one stage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView {
    stage: String,
    event: EventReference,
    status: DeliveryStatusView,
    /// From 1; every replay starts a new round.
    round: u32,
    /// Attempt under way or last made, from 1.
    attempt: u32,
    /// The plugin that settled it.
    plugin: PluginReference,
    /// The host that handled it last: ran, skipped or deferred it; null if no host did, or it was not
    /// recorded.
    host: Option<String>,
    /// Time in the stage on the settling attempt, milliseconds.
    duration_ms: Option<f64>,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
    /// Ids of the events that the stage emitted.
    emitted: Vec<String>,
    /// Failed attempts, oldest first.
    failures: Vec<FailedAttemptView>,
}

/// An event, by type and name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventReference {
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    source: String,
}

/// A version of a plugin.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginReference {
    version: Option<String>,
    /// SHA-256 of the file.
    digest: Option<String>,
}

impl From<DeliveryRecord> for DeliveryView {
    fn from(delivery: DeliveryRecord) -> Self {
        let EventKey { source, id } = delivery.event;
        Self {
            stage: delivery.stage,
            event: EventReference { event_type: delivery.event_type, id, source },
            status: delivery.status.into(),
            round: delivery.round,
            attempt: delivery.attempt,
            plugin: PluginReference { version: delivery.version, digest: delivery.digest },
            host: delivery.host,
            duration_ms: delivery.duration_us.map(|micros| micros as f64 / 1_000.0),
            created_at_ms: delivery.created_at_ms,
            settled_at_ms: delivery.settled_at_ms,
            emitted: delivery.emitted,
            failures: delivery.failures.into_iter().map(Into::into).collect(),
        }
    }
}

/// A failed attempt of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FailedAttempt)]
pub(crate) struct FailedAttemptView {
    /// From 1; every replay starts a new round.
    round: u32,
    /// From 1.
    attempt: u32,
    /// Short and stable.
    code: String,
    /// For people.
    message: String,
    /// Symbolised backtrace of the guest.
    backtrace: Option<String>,
    /// SHA-256 of the plugin that failed.
    digest: String,
    /// The host that ran it; null if no host did, or it was not recorded.
    host: Option<String>,
    /// Time in the stage, microseconds.
    duration_us: u64,
    /// Milliseconds since 1970-01-01 UTC.
    at_ms: u64,
}

impl From<FailedAttempt> for FailedAttemptView {
    fn from(failed: FailedAttempt) -> Self {
        let FailedAttempt {
            round,
            attempt,
            code,
            message,
            backtrace,
            digest,
            host,
            duration_us,
            at_ms,
        } = failed;
        let host = host.map(|host| host.to_string());
        Self { round, attempt, code, message, backtrace, digest, host, duration_us, at_ms }
    }
}
