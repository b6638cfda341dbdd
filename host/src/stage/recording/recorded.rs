//! A settled delivery with its event, its recording and its outcome: an item of the API's list, and
//! a line of a file.

use serde::{Deserialize, Serialize};

use super::{Decided, JsonBytes, Recording};
use crate::domain::event::{DeliveryKey, Envelope, Event, EventKey};
use crate::store::RecordedDelivery;

/// A settled delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The stage.
    pub stage: String,
    /// The order whose story it belongs to.
    pub order_id: Option<String>,
    /// What the stage was asked about.
    pub event: RecordedEvent,
    /// Replays before, from 1.
    pub round: u32,
    /// The try that settled it, from 1.
    pub attempt: u32,
    /// Version of the plugin that settled it.
    pub version: Option<String>,
    /// Digest of the plugin that settled it.
    pub digest: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: u64,
    /// What the stage was given; none when it cannot be read.
    pub recording: Option<Recording>,
    /// What came of it; none when an event that it emitted is no longer in the log.
    pub outcome: Option<RecordedOutcome>,
}

/// An event, every byte of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as CloudEvents has it; see `event::Envelope`")]
pub struct RecordedEvent {
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: String,
    pub time_ms: u64,
    pub content_type: String,
    pub data: JsonBytes,
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    pub correlation_id: String,
    #[serde(default)]
    pub cause: Option<EventKey>,
    #[serde(default)]
    pub hops: u32,
}

/// What a stage decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedOutcome {
    /// These events.
    Done(Vec<RecordedEmit>),
    /// Nothing: the delivery died.
    Dead {
        /// As in the dead letter.
        code: String,
    },
}

/// An event that a stage emitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as `handler::Emitted` has it")]
pub struct RecordedEmit {
    pub id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: String,
    pub content_type: String,
    pub data: JsonBytes,
    pub delay_ms: u64,
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
}

impl RecordedEmit {
    pub fn of(event: Event, delay_ms: u64) -> Self {
        let Event { id, event_type, subject, content_type, data, attributes, .. } = event;
        Self { id, event_type, subject, content_type, data: JsonBytes(data), delay_ms, attributes }
    }
}

impl Recorded {
    pub fn of(stage: &str, delivery: RecordedDelivery) -> Self {
        let Envelope { event, order_id, correlation_id, cause, hops, .. } = delivery.envelope;
        let Event { id, event_type, source, subject, time_ms, content_type, data, attributes } =
            event;
        let recording: Option<Recording> = serde_json::from_str(&delivery.recording)
            .inspect_err(
                |error| tracing::warn!(%stage, event = %id, %error, "a recording cannot be read"),
            )
            .ok();
        let outcome = recording
            .as_ref()
            .zip(delivery.emitted)
            .map(|(recording, emitted)| outcome(&recording.decided, emitted));
        let data = JsonBytes(data);
        let event = RecordedEvent {
            id,
            source,
            event_type,
            subject,
            time_ms,
            content_type,
            data,
            attributes,
            correlation_id,
            cause,
            hops,
        };
        Self {
            stage: stage.to_owned(),
            order_id,
            event,
            round: delivery.round,
            attempt: delivery.attempt,
            version: delivery.version,
            digest: delivery.digest,
            settled_at_ms: delivery.settled_at_ms,
            recording,
            outcome,
        }
    }

    /// Names the delivery.
    pub fn key(&self) -> DeliveryKey {
        let event = EventKey { source: self.event.source.clone(), id: self.event.id.clone() };
        DeliveryKey { stage: self.stage.as_str().into(), event }
    }

    /// The event on its journey; it does not expire.
    pub fn envelope(&self) -> Envelope {
        let event = self.event.clone();
        Envelope {
            event: Event {
                id: event.id,
                event_type: event.event_type,
                source: event.source,
                subject: event.subject,
                time_ms: event.time_ms,
                content_type: event.content_type,
                data: event.data.0,
                attributes: event.attributes,
            },
            order_id: self.order_id.clone(),
            correlation_id: event.correlation_id,
            cause: event.cause,
            hops: event.hops,
            expires_at_ms: u64::MAX,
        }
    }
}

fn outcome(decided: &Decided, emitted: Vec<Event>) -> RecordedOutcome {
    match decided {
        Decided::Dead { code, .. } => RecordedOutcome::Dead { code: code.clone() },
        Decided::Done { delays_ms, .. } => {
            let delays = delays_ms.iter().copied().chain(std::iter::repeat(0));
            RecordedOutcome::Done(
                emitted
                    .into_iter()
                    .zip(delays)
                    .map(|(event, delay_ms)| RecordedEmit::of(event, delay_ms))
                    .collect(),
            )
        }
    }
}
