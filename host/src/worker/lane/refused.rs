//! Dead-letters a message whose outcome the store refuses, so that it does not block its lane.
//!
//! A refused batch was rolled back. It is divided until the message at fault is alone; the others
//! are committed. Nothing is dead-lettered while the store refuses dead letters as well: then the
//! message stays unacknowledged, and the broker delivers it again.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Lane, Work};
use crate::domain::event::{Envelope, Event, hex};
use crate::pipeline::Running;
use crate::store::{Batch, Commit, StoreError};
use crate::worker::decide::{Decision, Progress};

/// Source of the event that stands for one that the database cannot store.
const UNSTORABLE_SOURCE: &str = "/postrider/unstorable";
/// Longest text of such an event.
const TEXT_MAX_BYTES: usize = 255;

impl Lane {
    /// Dead-letters a message whose outcome the store refused with `error`. Returns whether it is
    /// settled.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub(super) async fn dead_letter(
        &self,
        work: &Work,
        running: &Running,
        error: &StoreError,
    ) -> Result<bool, StoreError> {
        tracing::error!(
            stage = %self.stage.name,
            event = %work.message.envelope.event.id,
            %error,
            "the store refuses the outcome of a message, dead-lettering it"
        );
        let envelope = Arc::clone(&work.message.envelope);
        let refusal = match self.commit_dead_letter(work, running, envelope, error).await {
            Ok(()) => return Ok(true),
            Err(refusal) => refusal,
        };
        // The event may be what the database cannot store. One that is stored keeps its identity.
        let is_stored = match self.services.store.delivery(&work.key.delivery).await {
            Ok(delivery) => delivery.is_some(),
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => false,
        };
        if refusal.is_transient() {
            return Err(refusal);
        }
        let substitute = Arc::new(storable(&work.message.envelope));
        let settled = if is_stored {
            Err(refusal)
        } else {
            self.commit_dead_letter(work, running, substitute, error).await
        };
        match settled {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::error!(
                    stage = %self.stage.name,
                    event = %work.message.envelope.event.id,
                    %error,
                    "the store refuses the dead letter, too: the message stays in its queue"
                );
                Ok(false)
            }
        }
    }

    async fn commit_dead_letter(
        &self,
        work: &Work,
        running: &Running,
        envelope: Arc<Envelope>,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let (code, message) = match error {
            StoreError::Rejected { code, message } => (code.as_str(), message.clone()),
            StoreError::Contended => ("contended", error.to_string()),
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => ("corrupt", error.to_string()),
        };
        let mut work = Work::alone(work, envelope);
        loop {
            let progress = Progress::Refused { code, message: &message };
            let attempt = work.attempt_on(running);
            let Decision::Settle(ruling) = self.decide(&work, running, &attempt, progress) else {
                return Ok(());
            };
            let version = running.handler.description().version.clone();
            let envelope = Arc::clone(&work.message.envelope);
            let settlement = ruling.into_settlement(attempt, envelope, version, None);
            let mut counted = self.services.pipeline.chains().begin();
            counted.add(&settlement);
            let batch = Batch {
                stage: Arc::clone(&self.stage.name),
                settlements: vec![settlement],
                reads: Vec::new(),
                writes: Vec::new(),
            };
            match self.services.store.commit(batch).await? {
                Commit::Done { outbox, .. } => {
                    counted.keep();
                    self.services.relay.enqueue(outbox);
                    return Ok(());
                }
                // Another transaction settled it, or sent it again.
                Commit::Conflict { .. } => return Ok(()),
                Commit::OrderCancelled(_) => work.order_cancelled = true,
            }
        }
    }
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

    #[test]
    fn unstorable_texts_become_short_ascii() {
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
        let original = Envelope::first(event, Some("🎁".to_owned()), 9);
        let substitute = storable(&original);
        let Event { id, source, subject, data, .. } = &substitute.event;
        for text in [id, source, subject] {
            assert!(text.is_ascii() && text.len() <= TEXT_MAX_BYTES, "{text}");
        }
        assert_eq!(data, &original.event.data, "the body is kept");
        assert_eq!(substitute.key(), storable(&original).key());
        assert_eq!(substitute.order_id, None);
    }
}
