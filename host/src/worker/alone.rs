//! Settles one delivery by itself, outside of a lane's batches: a dead letter for a message that cannot
//! be run, or whose outcome the store refuses.
//!
//! Bounds: a dead letter that the store refuses, too, is tried again with an event that every database
//! can store, then without its body. After that the message stays unacknowledged, and others go on.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::decide::{self, Attempt, Decision, DecisionInputs, Progress};
use super::delivery_log::log_ruling;
use crate::domain::event::{DeliveryKey, Envelope, Event, EventKey, hex};
use crate::pipeline::{Running, Stage};
use crate::services::Services;
use crate::stage::delivery_log::{DeliveryLog, log_delivery};
use crate::store::{Batch, Commit, Settlement, StoreError};

/// Source of the event that stands for one that the database cannot store.
const UNSTORABLE_SOURCE: &str = "/postrider/unstorable";
/// Source of the event that stands for one whose source and id another event has.
const CONFLICT_SOURCE: &str = "/postrider/conflict";
/// Longest text of an event that every database can store.
const TEXT_MAX_BYTES: usize = 255;

/// A delivery that is settled alone.
pub(super) struct Alone<'a> {
    pub(super) stage: &'a Stage,
    pub(super) services: &'a Services,
    pub(super) running: &'a Running,
    /// The host that ran it or would have; none: the broker dead-lettered its message.
    pub(super) host: Option<&'a Arc<str>>,
    pub(super) envelope: Arc<Envelope>,
    pub(super) round: u32,
    pub(super) attempt: u32,
}

impl Alone<'_> {
    fn with(&self, envelope: Envelope) -> Self {
        Self { envelope: Arc::new(envelope), ..*self }
    }

    fn delivery(&self) -> DeliveryKey {
        DeliveryKey { stage: Arc::clone(&self.stage.name), event: self.envelope.key() }
    }

    fn attempt(&self) -> Attempt {
        let digest = Arc::clone(&self.running.digest);
        let mut attempt = Attempt::new(self.delivery(), self.round, self.attempt, digest);
        attempt.host = self.host.cloned();
        attempt
    }

    /// What log lines say of the delivery.
    pub(super) fn log(&self) -> DeliveryLog {
        self.attempt().log(self.stage, &self.envelope)
    }

    /// Dead-letters an event whose source and id another event has, under a key of its own.
    pub(super) async fn dead_letter_conflict(&self) -> Result<(), StoreError> {
        let key = self.envelope.key();
        self.with(standing_in(&self.envelope)).settle(Cause::KeyInUse(&key)).await
    }

    /// Dead-letters a message whose outcome the store refused with `error`; `why` says what was to be
    /// recorded, if that was a dead letter. Returns whether it is settled.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub(super) async fn dead_letter_refused(
        &self,
        error: &StoreError,
        why: Option<&str>,
    ) -> Result<bool, StoreError> {
        log_delivery!(
            ERROR,
            &self.log(),
            %error,
            "the store refuses the outcome of a message, dead-lettering it"
        );
        let refused = Refusal::new(error, why);
        let refusal = match self.settle(Cause::Refused(&refused)).await {
            Ok(()) => return Ok(true),
            Err(refusal) => refusal,
        };
        // The event may be what the database cannot store. One that is stored keeps its identity.
        let is_stored = match self.services.store.delivery(&self.delivery()).await {
            Ok(delivery) => delivery.is_some(),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => false,
        };
        if refusal.is_transient() {
            return Err(refusal);
        }
        let mut settled = Err(refusal);
        if !is_stored {
            let substitute = storable(&self.envelope);
            let mut without_body = substitute.clone();
            without_body.event.data = Vec::new().into();
            for substitute in [substitute, without_body] {
                settled = self.with(substitute).settle(Cause::Refused(&refused)).await;
                match &settled {
                    Err(error) if !error.is_transient() => {}
                    _ => break,
                }
            }
        }
        match settled {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                log_delivery!(
                    ERROR,
                    &self.log(),
                    %error,
                    "the store refuses the dead letter, too: the message stays in its queue"
                );
                Ok(false)
            }
        }
    }

    /// Decides and commits. A delivery that another transaction settled, or sent again, is settled.
    async fn settle(&self, cause: Cause<'_>) -> Result<(), StoreError> {
        let mut subject_cancelled = false;
        loop {
            let attempt = self.attempt();
            let decision = self.decide(&attempt, cause.progress(), subject_cancelled);
            let Decision::Settle(ruling) = decision else { return Ok(()) };
            log_ruling(&self.log(), &ruling, 0);
            let version = self.running.handler.description().version.clone();
            let envelope = Arc::clone(&self.envelope);
            let settlement = ruling.into_settlement(attempt, envelope, version, None);
            match commit_alone(self.services, settlement).await? {
                Commit::Done { .. } | Commit::Conflict { .. } => return Ok(()),
                Commit::SubjectCancelled(_) => subject_cancelled = true,
            }
        }
    }

    fn decide(
        &self,
        attempt: &Attempt,
        progress: Progress<'_>,
        subject_cancelled: bool,
    ) -> Decision {
        let (envelope, policy) = (&*self.envelope, &self.running.policy);
        decide::decide(DecisionInputs {
            policy,
            routes: &*self.services.pipeline,
            envelope,
            attempt,
            subject_cancelled,
            chain: self.services.pipeline.chains().status(&envelope.correlation_id),
            expires_at_ms: self.stage.expires_at_ms(envelope.expires_at_ms, policy.expiry_ms),
            progress,
            now_ms: self.services.clock.now_ms(),
            random: rand::random(),
        })
    }
}

/// Commits one settlement in a batch of its own, counts its events, and sends them.
pub(super) async fn commit_alone(
    services: &Services,
    settlement: Settlement,
) -> Result<Commit, StoreError> {
    let mut counted = services.pipeline.chains().begin();
    counted.add(&settlement);
    let batch = Batch {
        stage: Arc::clone(&settlement.delivery.stage),
        settlements: vec![settlement],
        reads: Vec::new(),
        writes: Vec::new(),
    };
    let mut commit = services.store.commit(batch).await?;
    if let Commit::Done { outbox, .. } = &mut commit {
        counted.keep();
        services.relay.enqueue(std::mem::take(outbox));
    }
    Ok(commit)
}

/// Why a delivery is dead-lettered.
#[derive(Clone, Copy)]
enum Cause<'a> {
    /// Another event has its source and id.
    KeyInUse(&'a EventKey),
    Refused(&'a Refusal),
}

impl<'a> Cause<'a> {
    fn progress(self) -> Progress<'a> {
        match self {
            Self::KeyInUse(key) => Progress::KeyInUse(key),
            Self::Refused(Refusal { code, message }) => Progress::Refused { code, message },
        }
    }
}

/// What the store refused, in the words of a dead letter.
struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    fn new(error: &StoreError, why: Option<&str>) -> Self {
        let (code, message) = match error {
            StoreError::Rejected { code, message } => (code.as_str(), message.clone()),
            StoreError::Contended => ("contended", error.to_string()),
            StoreError::Unavailable(_)
            | StoreError::StateUnavailable { .. }
            | StoreError::Corrupt(_) => ("corrupt", error.to_string()),
        };
        let message = match why {
            Some(why) => format!("{message}; the message cannot be read: {why}"),
            None => message,
        };
        Self { code: code.to_owned(), message }
    }
}

/// The same event under a key of its own, a hash of its contents: a copy of it is the same event.
fn standing_in(envelope: &Envelope) -> Envelope {
    let Event { id, source, event_type, subject, data, attributes, .. } = &envelope.event;
    let mut hash = Sha256::new();
    hash.update(format!("{source:?} {id:?} {event_type:?} {subject:?} {attributes:?} "));
    hash.update(data);
    let id = hex(&hash.finalize()[..16]);
    let event = Event { id, source: CONFLICT_SOURCE.to_owned(), ..envelope.event.clone() };
    Envelope::first(event, None, envelope.expires_at_ms)
}

/// An event that every database can store, for one that cannot be stored: its texts are ASCII, and
/// its key is a hash of the event's key, so a copy of the same event is the same event.
fn storable(envelope: &Envelope) -> Envelope {
    let Event { id, source, subject, event_type, content_type, data, time_ms, .. } =
        &envelope.event;
    let digest = Sha256::digest(format!("{source}\n{id}"));
    let event = Event {
        id: hex(&digest[..16]),
        event_type: ascii(event_type),
        source: UNSTORABLE_SOURCE.to_owned(),
        subject: ascii(subject),
        time_ms: *time_ms,
        content_type: ascii(content_type),
        data: data.clone(),
        attributes: Vec::new(),
    };
    Envelope::first(event, None, envelope.expires_at_ms)
}

/// The text with everything but printable ASCII escaped, shortened.
fn ascii(text: &str) -> String {
    let mut escaped: String = text
        .chars()
        .map(|char| match char {
            ' '..='~' => char.to_string(),
            _ => char.escape_unicode().to_string(),
        })
        .collect();
    escaped.truncate(TEXT_MAX_BYTES);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Envelope {
        let event = Event {
            id: "gift 🎁".to_owned(),
            event_type: "desk.note".to_owned(),
            source: "/désk".to_owned(),
            subject: "🎁".repeat(1_000),
            time_ms: 7,
            content_type: "text/plain".to_owned(),
            data: "🎁".into(),
            attributes: vec![("zone".to_owned(), "🎁".to_owned())],
        };
        Envelope::first(event, "order/1".parse().ok(), 9)
    }

    #[test]
    fn unstorable_texts_become_short_ascii() {
        let original = original();
        let substitute = storable(&original);
        let Event { id, source, subject, data, .. } = &substitute.event;
        for text in [id, source, subject] {
            assert!(text.is_ascii() && text.len() <= TEXT_MAX_BYTES, "{text}");
        }
        assert_eq!(data, &original.event.data, "the body is kept");
        assert_eq!(substitute.key(), storable(&original).key());
        assert_eq!(substitute.subject_key, None);
    }

    #[test]
    fn events_that_share_a_key_get_keys_of_their_own() {
        let one = original();
        let mut other = one.clone();
        other.event.data = "other".into();
        assert_eq!(standing_in(&one).key(), standing_in(&one).key());
        assert_ne!(standing_in(&one).key(), standing_in(&other).key());
        assert_eq!(standing_in(&other).event.data, "other");
    }
}
