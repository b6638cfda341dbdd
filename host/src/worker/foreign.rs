//! Events of other programs that arrive through the broker, compared with the log before they run,
//! as those over HTTP are before they are accepted.
//!
//! Hosts never send such messages, so only those of other programs cost queries: one for the event,
//! and one for the order that a new event names.

use std::sync::Arc;

use crate::broker::Sender;
use crate::domain::cloud_events::is_repetition;
use crate::domain::event::Envelope;
use crate::store::{Store, StoreError};

/// What the log makes of a message.
pub(super) enum Identified {
    /// The event to run. One that the log has belongs to the order that the log says; a new one to
    /// the order that it names, if there is such an order.
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
    let order_id = match known.into_iter().find(|known| known.event.source == event.source) {
        Some(known) if !is_repetition(&known.event, event) => return Ok(Identified::Conflict),
        Some(known) => known.order_id,
        None => match &envelope.order_id {
            Some(id) => store.order(id).await?.map(|order| order.id),
            None => None,
        },
    };
    Ok(Identified::Event(if order_id == envelope.order_id {
        Arc::clone(envelope)
    } else {
        Arc::new(Envelope { order_id, ..Envelope::clone(envelope) })
    }))
}
