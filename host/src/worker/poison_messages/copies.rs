//! Unreadable messages with the same contents: each gets a dead letter of its own, and a message that
//! the broker delivers again gets no second one.
//!
//! AMQP gives a message no identity, so the event that stands for one is named by its contents (which
//! include the second in which the broker rejected it) and a number. A message that was never
//! delivered before takes the next number. One that was delivered before has the last number that no
//! other message of this consumer has, if there is one. This is exact unless a host ends after it
//! received one of several identical messages and before it recorded it: then the message cannot be
//! told from one that was recorded, and shares that dead letter. Bound: [`CONTENTS_MAX`] contents are
//! remembered.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::domain::event::Envelope;

/// Contents that are remembered.
const CONTENTS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("not 0");

/// The numbers of identical messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The last one in use; 0: none is.
    pub(super) last: u32,
    /// Numbers up to this one may belong to messages that are delivered again.
    unclaimed: u32,
}

impl Numbers {
    /// Numbers of which the store has the first `last`.
    pub(super) fn stored(last: u32) -> Self {
        Self { last, unclaimed: last }
    }

    /// Finds the number of a message that was delivered before; false: it has none.
    pub(super) fn claim(&mut self) -> bool {
        let found = self.unclaimed > 0;
        self.unclaimed = self.unclaimed.saturating_sub(1);
        found
    }
}

/// The numbers of every contents that one consumer received.
#[derive(Debug)]
pub(super) struct Copies(LruCache<String, Numbers>);

impl Default for Copies {
    fn default() -> Self {
        Self(LruCache::new(CONTENTS_MAX))
    }
}

impl Copies {
    pub(super) fn get(&mut self, contents: &str) -> Option<Numbers> {
        self.0.get(contents).copied()
    }

    pub(super) fn set(&mut self, contents: &str, numbers: Numbers) {
        self.0.put(contents.to_owned(), numbers);
    }
}

/// The event that stands for the message with this number; the first one is named by its contents
/// alone.
pub(super) fn numbered(envelope: &Arc<Envelope>, number: u32) -> Arc<Envelope> {
    if number <= 1 {
        return Arc::clone(envelope);
    }
    let mut envelope = Envelope::clone(envelope);
    envelope.event.id = format!("{}-{number}", envelope.event.id);
    envelope.correlation_id.clone_from(&envelope.event.id);
    Arc::new(envelope)
}
