//! A settled delivery with its event, its recording and its outcome, as the API returns it and as a
//! line of an exported file.

use serde::{Deserialize, Serialize};

use super::{Decided, JsonBytes, Recording};
use crate::domain::event::{DeliveryKey, Envelope, Event, EventKey};
use crate::domain::subject::SubjectKey;
use crate::store::RecordedDelivery;

/// A settled delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Name of the stage.
    pub stage: String,
    /// The subject that the event belongs to.
    pub subject_key: Option<SubjectKey>,
    /// The event that was delivered.
    pub event: RecordedEvent,
    /// Replays so far, from 1.
    pub round: u32,
    /// The attempt that settled it, from 1.
    pub attempt: u32,
    /// Version of the plugin that settled it.
    pub version: Option<String>,
    /// Digest of the plugin that settled it.
    pub digest: Option<String>,
    /// Host that settled it.
    pub host: Option<String>,
    /// When it was settled, milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: u64,
    /// Inputs and decision of the call; none when the recording cannot be read.
    pub recording: Option<Recording>,
    /// The outcome; none when an emitted event is no longer in the log.
    pub outcome: Option<RecordedOutcome>,
}

/// An event with all its data.
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

/// How a delivery was settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedOutcome {
    /// The stage emitted these events.
    Done(Vec<RecordedEmit>),
    /// The delivery was dead-lettered.
    Dead {
        /// Code of the dead letter.
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
    /// An event of the log that was emitted with a delay.
    pub fn of(event: Event, delay_ms: u64) -> Self {
        let Event { id, event_type, subject, content_type, data, attributes, .. } = event;
        Self { id, event_type, subject, content_type, data: JsonBytes(data), delay_ms, attributes }
    }
}

impl Recorded {
    /// A delivery as the store returns it.
    pub fn of(stage: &str, delivery: RecordedDelivery) -> Self {
        let Envelope { event, subject_key, correlation_id, cause, hops, .. } = delivery.envelope;
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
            subject_key,
            event,
            round: delivery.round,
            attempt: delivery.attempt,
            version: delivery.version,
            digest: delivery.digest,
            host: delivery.host,
            settled_at_ms: delivery.settled_at_ms,
            recording,
            outcome,
        }
    }

    /// The key of the delivery.
    pub fn key(&self) -> DeliveryKey {
        let event = EventKey { source: self.event.source.clone(), id: self.event.id.clone() };
        DeliveryKey { stage: self.stage.as_str().into(), event }
    }

    /// The event in an envelope that does not expire.
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
            subject_key: self.subject_key.clone(),
            customer_hash: 0,
            correlation_id: event.correlation_id,
            cause: event.cause,
            hops: event.hops,
            expires_at_ms: u64::MAX,
            data_key: None,
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
