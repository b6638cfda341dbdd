//! Local hand-over: the host that commits an event runs it itself, without a message, when all of its
//! stages run here and have room.
//!
//! The open delivery is the guarantee, as for a message that the broker lost: what a host held when it
//! stopped without warning is found by the reconciler of another host, or of its successor. Bounds: the window of a stage,
//! which has room for as many messages and bytes as its prefetch, beside those of its queue. Everything
//! else goes through the broker: what does not fit, so that work flows to hosts with room; what is due
//! later; what a stage cannot take now; and events that other programs subscribe to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Pipeline, Stage};
use crate::config::BrokerConfig;
use crate::domain::event::{Envelope, topic_matches};
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{ControlState, Direct, NewEvent, OutboxRow};

/// The tags of handed-over messages; the broker's are smaller.
const TAGS: std::ops::Range<u64> = 1 << 62..1 << 63;

/// Whether a message was handed over, so that the broker knows nothing of it.
pub fn is_handed_over(tag: u64) -> bool {
    TAGS.contains(&tag)
}

/// Takes what is handed over: the tag and the event.
pub type Feed = Box<dyn Fn(u64, Arc<Envelope>) + Send + Sync>;

/// What may be handed over to a stage.
pub struct Window {
    max_messages: u32,
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None while the stage is not consumed here.
    feed: Option<Feed>,
    /// Messages that are held, and those for which room is reserved.
    messages: u32,
    bytes: u64,
    handed_over: u64,
}

impl Window {
    pub(super) fn new(max_messages: u32, max_bytes: u64) -> Self {
        Self { max_messages, max_bytes, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stage is consumed here: it takes what is handed over from now on.
    pub fn open(&self, feed: Feed) {
        self.lock().feed = Some(feed);
    }

    /// The stage is not consumed any more.
    pub fn close(&self) {
        self.lock().feed = None;
    }

    /// Room for a message of so many bytes is free again.
    pub fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.messages = state.messages.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Reserves room for a message of so many bytes, on a host that holds `held` messages of the stage:
    /// those of its queue come first.
    fn reserve(&self, bytes: u64, held: usize) -> bool {
        let mut state = self.lock();
        let after = state.bytes.saturating_add(bytes);
        let max = self.max_messages as usize;
        let fits = held < max && (state.messages as usize) < max;
        if state.feed.is_none() || !fits || (state.bytes > 0 && after > self.max_bytes) {
            return false;
        }
        state.messages += 1;
        state.bytes = after;
        true
    }

    /// Hands over a message for which room was reserved; false when the stage is not consumed any more.
    fn feed(&self, envelope: &Arc<Envelope>) -> bool {
        // The lock is held, so nothing is fed after `close`.
        let mut state = self.lock();
        let tag = TAGS.start + state.handed_over;
        let Some(feed) = &state.feed else { return false };
        feed(tag, Arc::clone(envelope));
        state.handed_over += 1;
        true
    }

    /// Messages that are held, and those for which room is reserved.
    pub fn messages(&self) -> u32 {
        self.lock().messages
    }

    /// Messages that were handed over since the host started.
    pub fn handed_over(&self) -> u64 {
        self.lock().handed_over
    }
}

/// Room in the windows of all stages of an event; free again when it is dropped.
struct Reservation {
    envelope: Arc<Envelope>,
    stages: Vec<Arc<Stage>>,
}

impl Reservation {
    /// Hands the event over; returns a row for each stage that is not consumed here any more.
    fn deliver(mut self) -> Vec<OutboxRow> {
        let mut rest = Vec::new();
        for stage in std::mem::take(&mut self.stages) {
            if stage.window.feed(&self.envelope) {
                continue;
            }
            stage.window.release(self.envelope.bytes());
            let direct = Direct { stage: Arc::clone(&stage.name), round: 1, attempt: 1 };
            let envelope = Arc::clone(&self.envelope);
            rest.push(OutboxRow { id: None, envelope, direct: Some(direct), routed: true });
        }
        rest
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for stage in &self.stages {
            stage.window.release(self.envelope.bytes());
        }
    }
}

/// Room for the events of one commit.
#[must_use]
pub struct Reservations(VecDeque<Reservation>);

impl Reservations {
    /// After the commit: hands over the events that have no row in the outbox, and returns what is left
    /// for the relay.
    #[must_use]
    pub fn deliver(mut self, rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        if self.0.is_empty() {
            return rows;
        }
        let mut rest = Vec::new();
        for row in rows {
            if row.id.is_some() {
                rest.push(row);
                continue;
            }
            // Both are in the order of the commit; the store left out some.
            while let Some(reserved) = self.0.pop_front() {
                if Arc::ptr_eq(&reserved.envelope, &row.envelope) {
                    rest.extend(reserved.deliver());
                    break;
                }
            }
        }
        rest
    }
}

/// Which events may be handed over at all.
pub(super) struct HandOver {
    enabled: bool,
    /// Topic patterns of events that other programs subscribe to.
    subscriptions: Vec<String>,
}

impl HandOver {
    /// Without known subscriptions every event has to be published.
    pub(super) fn new(broker: &BrokerConfig) -> Self {
        let enabled = broker.hands_over() && broker.subscriptions.is_some();
        Self { enabled, subscriptions: broker.subscriptions.clone().unwrap_or_default() }
    }

    fn allows(&self, event: &NewEvent) -> bool {
        let event_type = &event.envelope.event.event_type;
        self.enabled
            && event.only_stage.is_none()
            && !event.only_logged
            && !event.routed_to.is_empty()
            && !self.subscriptions.iter().any(|pattern| topic_matches(pattern, event_type))
    }
}

impl Pipeline {
    /// Reserves room for events before they are committed, and marks those that can be handed over.
    pub fn reserve<'a>(&self, events: impl Iterator<Item = &'a mut NewEvent>) -> Reservations {
        if !self.hand_over.enabled {
            return Reservations(VecDeque::new());
        }
        let reserved = events.filter_map(|event| {
            let reserved = self.reserve_one(event);
            event.hand_over = reserved.is_some();
            reserved
        });
        Reservations(reserved.collect())
    }

    fn reserve_one(&self, event: &NewEvent) -> Option<Reservation> {
        if !self.hand_over.allows(event) {
            return None;
        }
        let envelope = Arc::clone(&event.envelope);
        let mut reservation = Reservation { envelope, stages: Vec::new() };
        for name in &event.routed_to {
            let stage = self.find(name).filter(|stage| stage.takes_over())?;
            if !stage.window.reserve(event.envelope.bytes(), stage.in_flight.len()) {
                return None;
            }
            reservation.stages.push(stage);
        }
        Some(reservation)
    }
}

impl Stage {
    /// Whether it runs what it is given now.
    fn takes_over(&self) -> bool {
        let runs = |state: ControlState| state == ControlState::Running;
        self.is_running()
            && self.control().is_none_or(|control| runs(control.state))
            && self.breaker().state() == BreakerState::Closed
    }
}
