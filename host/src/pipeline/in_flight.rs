//! The messages of a stage that this host holds, and how far its queue has come.
//!
//! A queue hands out its messages in their order, or tells how long they have waited. So an open
//! delivery that was queued well before the one that was settled last, and that no host holds, is
//! lost; the reconciler sends it again. It only saves waiting: the guarantee is the open delivery in
//! the store. Bounds: the stage's prefetch, and a quarter of it that is read ahead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::event::{Envelope, EventKey};

/// What a host holds of one stage.
#[derive(Default)]
pub struct InFlight {
    /// By the broker's name for the message.
    held: Mutex<HashMap<u64, (Instant, Arc<Envelope>)>>,
    queued_ms: AtomicU64,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Instant, Arc<Envelope>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds received messages: the broker's name, the time and the event of each.
    pub fn receive(&self, messages: impl Iterator<Item = (u64, Instant, Arc<Envelope>)>) {
        self.lock().extend(messages.map(|(tag, received, event)| (tag, (received, event))));
    }

    /// Removes messages that were given back or acknowledged; returns those of them that were held.
    pub fn release(&self, tags: &[u64]) -> Vec<(u64, Instant, Arc<Envelope>)> {
        let mut held = self.lock();
        let removed = tags.iter().filter_map(|tag| {
            let (received, envelope) = held.remove(tag)?;
            Some((*tag, received, envelope))
        });
        removed.collect()
    }

    /// How many messages are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// The messages that are held: the broker's name and the event of each.
    pub fn held(&self) -> Vec<(u64, Arc<Envelope>)> {
        self.lock().iter().map(|(tag, (_, event))| (*tag, Arc::clone(event))).collect()
    }

    /// Whether a message has been held for longer than `age`.
    pub fn holds_for(&self, age: Duration) -> bool {
        self.lock().values().any(|(received, _)| received.elapsed() > age)
    }

    /// The consumer is gone, and the broker has its messages: returns what was held.
    pub fn clear(&self) -> Vec<(u64, Instant, Arc<Envelope>)> {
        let all = std::mem::take(&mut *self.lock())
            .into_iter()
            .map(|(tag, (received, envelope))| (tag, received, envelope));
        all.collect()
    }

    /// Events of the messages that have been held for longer than `age`.
    pub fn held_for(&self, age: Duration) -> Vec<EventKey> {
        let held = self.lock();
        let old = held.values().filter(|(received, _)| received.elapsed() > age);
        old.map(|(_, envelope)| envelope.key()).collect()
    }

    /// A delivery that was queued then was settled; 0: unknown.
    pub fn settle(&self, queued_ms: u64) {
        if queued_ms > 0 {
            self.queued_ms.store(queued_ms, Ordering::Relaxed);
        }
    }

    /// When the delivery that was settled last was queued, milliseconds since 1970-01-01 UTC; 0: none
    /// was.
    pub fn settled_queued_ms(&self) -> u64 {
        self.queued_ms.load(Ordering::Relaxed)
    }
}
