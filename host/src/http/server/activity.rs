//! What a connection is doing: whether the server waits for its client, and since when.
//!
//! The connection notes it, and the server reads it: one check of all connections takes the place of
//! timers in each. A connection whose server is working, or has nothing to send, waits for nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a client may keep the server waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For the handshake and the head of a request.
    pub(crate) head: Duration,
    /// For the next request.
    pub(crate) idle: Duration,
    /// For taking the next part of an answer.
    pub(crate) stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(10),
        }
    }
}

/// What becomes of a connection whose client kept the server waiting for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It ends as if the host stopped: no request is in progress.
    Close,
    /// It ends immediately; why.
    Cut(&'static str),
}

/// What one connection is doing.
pub(super) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests whose answers were not sent yet.
    requests: usize,
    /// When the last one ended, or the connection began. Of interest while there is none.
    idle_since: Instant,
    /// When the head began that was not received yet: the connection, or its first bytes.
    head_since: Option<Instant>,
    /// Whether requests overlap, so that bytes do not mean the head of one.
    multiplexed: bool,
    /// Bodies that are being received.
    bodies: usize,
    /// When the oldest of them began, or an earlier one while there were others.
    body_since: Instant,
    /// The answers of which a part waits to be sent, and since when.
    parts: Vec<(u64, Instant)>,
    /// Numbers the answers.
    answers: u64,
    /// Since when the connection takes no bytes.
    blocked_since: Option<Instant>,
    /// When it was asked to end.
    closing_since: Option<Instant>,
}

impl Activity {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                requests: 0,
                idle_since: now,
                head_since: Some(now),
                multiplexed: false,
                bodies: 0,
                body_since: now,
                parts: Vec::new(),
                answers: 0,
                blocked_since: None,
                closing_since: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests will overlap.
    pub(super) fn multiplexed(&self) {
        self.state().multiplexed = true;
    }

    /// Bytes arrived: of a head, if none is complete.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if state.requests == 0 && !state.multiplexed {
            state.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// The head of a request is complete.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestActivity {
        let mut state = self.state();
        state.requests += 1;
        state.head_since = None;
        state.answers += 1;
        RequestActivity { activity: Arc::clone(self), id: state.answers, waits: false }
    }

    pub(super) fn begin_body(self: &Arc<Self>) -> BodyActivity {
        let mut state = self.state();
        if state.bodies == 0 {
            state.body_since = Instant::now();
        }
        state.bodies += 1;
        BodyActivity(Arc::clone(self))
    }

    /// Whether the connection takes no bytes.
    pub(super) fn blocked(&self, blocked: bool) {
        self.state().blocked_since = blocked.then(Instant::now);
    }

    pub(super) fn closing(&self, now: Instant) {
        self.state().closing_since.get_or_insert(now);
    }

    /// Since when the server waits for the client; none if it does not.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let state = self.state();
        let idle = (state.requests == 0).then_some(state.idle_since);
        let body = (state.bodies > 0).then_some(state.body_since);
        [idle, body, state.stalled_since()].into_iter().flatten().min()
    }

    /// What becomes of the connection; none while its client is quick enough.
    pub(super) fn ending(&self, now: Instant, timeouts: &Timeouts) -> Option<Ending> {
        let state = self.state();
        let over = |since: Option<Instant>, limit: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
        };
        if over(state.stalled_since(), timeouts.stall) {
            return Some(Ending::Cut("it does not take its answer"));
        }
        if over(state.closing_since, timeouts.stall) {
            return Some(Ending::Cut("it does not end"));
        }
        if state.requests > 0 || state.closing_since.is_some() {
            return None;
        }
        if over(state.head_since, timeouts.head) {
            return Some(Ending::Cut("its handshake or the head of its request is slow"));
        }
        let idle = state.head_since.is_none() && over(Some(state.idle_since), timeouts.idle);
        idle.then_some(Ending::Close)
    }
}

impl State {
    fn stalled_since(&self) -> Option<Instant> {
        self.parts.iter().map(|(_, since)| *since).chain(self.blocked_since).min()
    }
}

/// A request in progress: until its answer was sent, or dropped.
pub(super) struct RequestActivity {
    activity: Arc<Activity>,
    id: u64,
    /// Whether a part of its answer waits to be sent.
    waits: bool,
}

impl RequestActivity {
    /// A part of the answer was handed over to be sent.
    pub(super) fn part_waits(&mut self) {
        if !self.waits {
            self.waits = true;
            self.activity.state().parts.push((self.id, Instant::now()));
        }
    }

    /// The connection asks for the next part, so it sent the last one or has room for it.
    pub(super) fn part_taken(&mut self) {
        if self.waits {
            self.waits = false;
            self.activity.state().parts.retain(|(id, _)| *id != self.id);
        }
    }
}

impl Drop for RequestActivity {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        if self.waits {
            state.parts.retain(|(id, _)| *id != self.id);
        }
        state.requests -= 1;
        if state.requests == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// A body that is being received: until its end, or until it is dropped.
pub(super) struct BodyActivity(Arc<Activity>);

impl Drop for BodyActivity {
    fn drop(&mut self) {
        self.0.state().bodies -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        head: Duration::from_secs(1),
        idle: Duration::from_secs(2),
        stall: Duration::from_secs(3),
    };

    fn new() -> (Arc<Activity>, Instant) {
        let now = Instant::now();
        (Arc::new(Activity::new(now)), now)
    }

    fn after(activity: &Activity, seconds: u64) -> Option<Ending> {
        activity.ending(Instant::now() + Duration::from_secs(seconds), &TIMEOUTS)
    }

    #[test]
    fn a_head_must_arrive_in_time() {
        let (activity, began) = new();
        assert_eq!((after(&activity, 0), activity.waiting_since()), (None, Some(began)));
        assert!(matches!(after(&activity, 1), Some(Ending::Cut(_))));
        // Later heads begin with their first bytes; until then the connection is idle.
        drop(activity.begin_request());
        assert_eq!((after(&activity, 1), after(&activity, 2)), (None, Some(Ending::Close)));
        activity.received();
        assert!(matches!(after(&activity, 1), Some(Ending::Cut(_))));
    }

    #[test]
    fn bytes_of_a_multiplexed_connection_are_no_head() {
        let (activity, _) = new();
        activity.multiplexed();
        assert!(matches!(after(&activity, 1), Some(Ending::Cut(_))), "it made no request");
        drop(activity.begin_request());
        activity.received();
        assert_eq!((after(&activity, 1), after(&activity, 2)), (None, Some(Ending::Close)));
    }

    #[test]
    fn a_server_that_works_waits_for_nobody() {
        let (activity, _) = new();
        let request = activity.begin_request();
        activity.received();
        assert_eq!((after(&activity, 1_000), activity.waiting_since()), (None, None));
        let body = activity.begin_body();
        assert!(activity.waiting_since().is_some());
        drop(body);
        assert_eq!(activity.waiting_since(), None);
        drop(request);
        assert!(activity.waiting_since().is_some());
    }

    #[test]
    fn an_answer_that_is_not_taken_is_cut_off() {
        let (activity, _) = new();
        let (mut one, mut other) = (activity.begin_request(), activity.begin_request());
        one.part_waits();
        other.part_waits();
        assert_eq!(after(&activity, 2), None);
        assert!(matches!(after(&activity, 3), Some(Ending::Cut(_))));
        one.part_taken();
        assert!(matches!(after(&activity, 3), Some(Ending::Cut(_))), "the other one waits");
        drop(other);
        assert_eq!(after(&activity, 3), None);
        activity.blocked(true);
        assert!(matches!(after(&activity, 3), Some(Ending::Cut(_))));
        activity.blocked(false);
        assert_eq!(after(&activity, 3), None);
    }

    #[test]
    fn a_connection_that_was_asked_to_end_must_end() {
        let (activity, began) = new();
        activity.closing(began);
        assert_eq!(after(&activity, 2), None);
        assert!(matches!(after(&activity, 3), Some(Ending::Cut(_))));
    }
}
