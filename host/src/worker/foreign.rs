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
    /// The event to run. One that the log has belongs to the subject that the log says; a new one
    /// to the subject that it names, if there is one.
    Event(Arc<Envelope>),
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
        return Ok(Identified::Event(Arc::clone(envelope)));
    }
    let event = &envelope.event;
    let known = store.events_by_id(&event.id).await?.into_iter().map(|logged| logged.envelope);
    let (subject_key, customer_hash) =
        match known.into_iter().find(|known| known.event.source == event.source) {
            Some(known) if !is_repetition(&known.event, event) => return Ok(Identified::Conflict),
            Some(known) => (known.subject_key, known.customer_hash),
            None => {
                let named = match &envelope.subject_key {
                    Some(key) => store.subject(key).await?,
                    None => None,
                };
                let customer = named.as_ref().and_then(|subject| subject.customer.as_deref());
                let customer_hash = customer_hash(customer);
                (named.map(|subject| subject.key), customer_hash)
            }
        };
    let (named, hash) = (&envelope.subject_key, envelope.customer_hash);
    Ok(Identified::Event(if (&subject_key, customer_hash) == (named, hash) {
        Arc::clone(envelope)
    } else {
        Arc::new(Envelope { subject_key, customer_hash, ..Envelope::clone(envelope) })
    }))
}
