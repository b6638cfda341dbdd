//! Local hand-over: the host that commits an event runs it itself, without a message, when all of its
//! stages run here and have room.
//!
//! The open delivery is the guarantee, as for a message that the broker lost: what a host held when it
//! stopped without warning is found by the reconciler of another host, or of its successor. Bounds: the
//! window of a stage, which has room for as many messages and bytes as its prefetch, beside those of its
//! queue. Everything else goes through the broker: what does not fit, or would wait for more than
//! [`WAIT_MAX`], so that work flows to hosts with room; what is due later; what a stage cannot take
//! now; and events that other programs subscribe to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Pipeline, Stage};
use crate::config::BrokerConfig;
use crate::domain::event::Envelope;
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{ControlState, Direct, Listeners, NewEvent, OutboxRow};

/// The tags of handed-over messages; the broker's are smaller.
const TAGS: std::ops::Range<u64> = 1 << 62..1 << 63;

/// While messages wait for longer than this, nothing is handed over: another host may be idle.
const WAIT_MAX: Duration = Duration::from_secs(1);

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
    /// How long the message waited that was settled last, and when that was; or when the window was
    /// empty last.
    waited: Duration,
    at: Option<Instant>,
}

impl State {
    /// Whether a message that is handed over now would wait for long.
    fn is_held_up(&self) -> bool {
        let idle = self.at.map_or(Duration::ZERO, |at| at.elapsed());
        self.messages > 0 && self.waited.max(idle) > WAIT_MAX
    }

    fn release(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
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

    /// A message of so many bytes that was handed over is not held any more.
    pub fn release(&self, bytes: u64, received: Instant) {
        let mut state = self.lock();
        state.release(bytes);
        state.waited = received.elapsed();
        state.at = Some(Instant::now());
    }

    /// Reserves room for a message of so many bytes, on a host that holds `held` messages of the stage:
    /// those of its queue come first.
    fn reserve(&self, bytes: u64, held: usize) -> bool {
        let mut state = self.lock();
        let after = state.bytes.saturating_add(bytes);
        let max = self.max_messages as usize;
        let fits = held < max && (state.messages as usize) < max;
        let fits = fits && (state.bytes == 0 || after <= self.max_bytes);
        if state.feed.is_none() || !fits || state.is_held_up() {
            return false;
        }
        if state.messages == 0 {
            (state.waited, state.at) = (Duration::ZERO, Some(Instant::now()));
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
    /// Whether it is the room of this event. The store may have given the event a data key meanwhile.
    fn is_for(&self, envelope: &Envelope) -> bool {
        let (own, other) = (&self.envelope.event, &envelope.event);
        own.id == other.id && own.source == other.source
    }

    /// Hands over the event as it was committed; returns a row for each stage that is not consumed here
    /// any more.
    fn deliver(mut self, committed: &Arc<Envelope>) -> Vec<OutboxRow> {
        let mut rest = Vec::new();
        for stage in std::mem::take(&mut self.stages) {
            if stage.window.feed(committed) {
                continue;
            }
            stage.window.lock().release(self.envelope.bytes());
            let direct = Direct { stage: Arc::clone(&stage.name), round: 1, attempt: 1 };
            let envelope = Arc::clone(committed);
            rest.push(OutboxRow { id: None, envelope, direct: Some(direct), routed: true });
        }
        rest
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for stage in &self.stages {
            stage.window.lock().release(self.envelope.bytes());
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
            match self.0.iter().position(|reserved| reserved.is_for(&row.envelope)) {
                Some(at) => {
                    drop(self.0.drain(..at));
                    let reserved = self.0.pop_front();
                    rest.extend(reserved.into_iter().flat_map(|one| one.deliver(&row.envelope)));
                }
                None => rest.push(row),
            }
        }
        rest
    }
}

/// Which events may be handed over at all.
pub(super) struct HandOver {
    enabled: bool,
    /// What they may receive is published.
    listeners: Listeners,
}

impl HandOver {
    /// Without known subscriptions every event has to be published.
    pub(super) fn new(broker: &BrokerConfig) -> Self {
        let listeners = Listeners::of(broker.subscriptions.as_deref());
        Self { enabled: broker.hands_over() && listeners != Listeners::Unknown, listeners }
    }

    fn allows(&self, event: &NewEvent) -> bool {
        self.enabled
            && event.only_stage.is_none()
            && !event.only_logged
            && !event.routed_to.is_empty()
            && !self.listeners.hear(&event.envelope.event.event_type)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::sample_event;

    fn window(messages: u32, bytes: u64) -> Window {
        let window = Window::new(messages, bytes);
        window.open(Box::new(|_, _| {}));
        window
    }

    #[test]
    fn a_window_has_room_for_a_number_of_messages_and_bytes() {
        let of_messages = window(2, 100);
        assert!(of_messages.reserve(1, 0) && of_messages.reserve(1, 1));
        assert!(!of_messages.reserve(1, 0), "two messages");
        of_messages.lock().release(1);
        assert!(!of_messages.reserve(1, 2), "the host holds as many of the queue");
        assert!(of_messages.reserve(1, 1));
        let of_bytes = window(10, 100);
        assert!(of_bytes.reserve(60, 0) && !of_bytes.reserve(60, 0));
        of_bytes.lock().release(60);
        assert!(of_bytes.reserve(1_000, 0), "a larger one alone");
    }

    #[test]
    fn nothing_is_handed_over_while_messages_wait_for_long() {
        let window = window(10, 100);
        let Some(long_ago) = Instant::now().checked_sub(WAIT_MAX * 2) else { return };
        assert!(window.reserve(1, 0) && window.reserve(1, 0));
        window.release(1, long_ago);
        assert!(!window.reserve(1, 0), "the last one waited for long");
        window.release(1, long_ago);
        assert!(window.reserve(1, 0), "none waits any more");
        window.lock().at = Some(long_ago);
        assert!(!window.reserve(1, 0), "none is settled");
        window.release(1, Instant::now());
        assert!(window.reserve(1, 0) && window.reserve(1, 0));
    }

    #[test]
    fn a_reservation_is_released_unless_it_is_delivered() {
        let config = crate::config::Config::from_toml(
            "broker.url = \"amqp://mq\"\nbroker.subscriptions = []\n",
        );
        let config = config.expect("valid");
        let pipeline = Pipeline::new(&config, config.kinds().expect("valid"));
        let stage = pipeline.stage("payment");
        let fed = Arc::new(Mutex::new(Vec::new()));
        let feed = Arc::clone(&fed);
        stage.window.open(Box::new(move |tag, envelope: Arc<Envelope>| {
            feed.lock().unwrap().push((tag, envelope.event.id.clone(), envelope.customer_hash));
        }));
        let row = |event: &NewEvent| OutboxRow {
            id: None,
            envelope: Arc::clone(&event.envelope),
            direct: None,
            routed: true,
        };
        let mut events = ["e1", "e2", "e3"].map(|id| sample_event(id, &["payment"]));
        let unknown = sample_event("e4", &["payment"]);
        assert_eq!(pipeline.reserve(events.iter_mut()).0.len(), 0, "no version runs");
        for event in &events {
            assert!(stage.window.reserve(event.envelope.bytes(), 0));
        }
        let reserved = |event: &NewEvent| Reservation {
            envelope: Arc::clone(&event.envelope),
            stages: vec![Arc::clone(&stage)],
        };
        let reservations = Reservations(events.iter().map(reserved).collect());
        // The store has sent the second one.
        let sent = OutboxRow { id: Some(7), ..row(&events[1]) };
        // Another value of the third one was committed.
        let committed = OutboxRow {
            envelope: Arc::new(Envelope { customer_hash: 5, ..(*events[2].envelope).clone() }),
            ..row(&events[2])
        };
        let left = reservations.deliver(vec![row(&unknown), row(&events[0]), sent, committed]);
        let left: Vec<&str> = left.iter().map(|row| row.envelope.event.id.as_str()).collect();
        assert_eq!(left, ["e4", "e2"], "what has no room is sent, not lost");
        let tags = TAGS.start;
        assert_eq!(
            *fed.lock().unwrap(),
            [(tags, "e1".to_owned(), 0), (tags + 1, "e3".to_owned(), 5)]
        );
        assert_eq!(stage.window.messages(), 2);
        // The stage stops between the reservation and the commit.
        assert!(stage.window.reserve(events[0].envelope.bytes(), 0));
        stage.window.close();
        let reservations = Reservations([reserved(&events[0])].into());
        let left = reservations.deliver(vec![row(&events[0])]);
        assert!(
            left[0].id.is_none()
                && left[0].direct.as_ref().is_some_and(|one| &*one.stage == "payment")
        );
        assert_eq!(stage.window.messages(), 2);
    }
}
