//! Events of other programs that arrive through the broker, compared with the log before they run,
//! as those over HTTP are before they are accepted.
//!
//! Hosts never send such messages, so only those of other programs cost queries: one for the event,
//! and one for the subject that a new event names.

use std::sync::Arc;

use crate::broker::Sender;
use crate::domain::cloud_events::is_repetition;
use crate::domain::event::Envelope;
use crate::domain::fair_queue::customer_hash;
use crate::store::{Store, StoreError};

/// What the log makes of a message.
pub(super) enum Identified {
    /// The event to run. One that the log has is taken from the log, with its place in a chain, its
    /// expiry and its schedule; a new one belongs to the subject that it names, if there is one.
    Event { envelope: Arc<Envelope>, sender: Sender },
    /// The log has another event with its source and id.
    Conflict,
}

/// Compares a message with the log.
///
/// # Errors
/// When the store fails.
pub(super) async fn identify(
    store: &dyn Store,
    sender: Sender,
    envelope: &Arc<Envelope>,
) -> Result<Identified, StoreError> {
    if sender == Sender::Host {
        return Ok(Identified::Event { envelope: Arc::clone(envelope), sender });
    }
    let event = &envelope.event;
    let mut known = store.events_by_id(&event.id).await?.into_iter();
    match known.find(|known| known.envelope.event.source == event.source) {
        Some(known) if !is_repetition(&known.envelope.event, event) => Ok(Identified::Conflict),
        Some(known) => {
            let due_at_ms = known.due_at_ms;
            let envelope = Arc::new(known.envelope);
            Ok(Identified::Event { envelope, sender: Sender::OtherProgram { due_at_ms } })
        }
        None => {
            let named = match &envelope.subject_key {
                Some(key) => store.subject(key).await?,
                None => None,
            };
            let customer = named.as_ref().and_then(|subject| subject.customer.as_deref());
            let customer_hash = customer_hash(customer);
            let subject_key = named.map(|subject| subject.key);
            let envelope = Envelope { subject_key, customer_hash, ..Envelope::clone(envelope) };
            Ok(Identified::Event { envelope: Arc::new(envelope), sender })
        }
    }
}
