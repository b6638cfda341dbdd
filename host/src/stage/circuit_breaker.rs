//! The circuit breaker of one stage on this host: it suspends the stage while a dependency is down.
//!
//! Closed: calls are counted over a window. It opens when enough of them fail with an error that
//! names a dependency ([`Health::Unavailable`], [`Health::TimedOut`]) and the failures spread over
//! enough subjects, so the failures of single messages never open it: the retry policy handles them.
//! Open: one message after another probes, the longest-waiting first; a success closes the breaker.
//! A failed probe goes back behind the other messages, and uses up no attempt. Pure: the caller
//! passes the time. Bounds: one window of counts, [`BreakerPolicy::min_subjects`] hashes, one entry
//! for each lane; an open breaker waits [`BreakerPolicy::open_max_ms`] at most between two probes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Calls in the window before it may open; 0: it never opens.
    pub min_calls: u32,
    /// Subjects whose calls have to fail before it may open. A time-out counts half, because it may
    /// be the fault of the message.
    pub min_subjects: u32,
    /// Share of failed calls, 0 to 1, at which it opens.
    pub failure_share: f64,
    /// Length of the window, milliseconds. A window without a success is extended.
    pub window_ms: u64,
    /// Milliseconds until the first probe; doubled after each failed probe.
    pub open_ms: u64,
    /// Longest time between two probes, milliseconds.
    pub open_max_ms: u64,
    /// Failed probes in a row that use up no attempt of their messages; none: no limit.
    pub uncounted_probes: Option<u32>,
    /// Codes of failures that mean that a dependency is down, beside `unavailable` itself.
    pub unavailable: Vec<String>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            min_calls: 10,
            min_subjects: 5,
            failure_share: 0.5,
            window_ms: 10_000,
            open_ms: 250,
            open_max_ms: 1_000,
            uncounted_probes: None,
            unavailable: Vec::new(),
        }
    }
}

/// Whether a lane may run something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may run whole batches.
    Run,
    /// It may run one message, whose outcome it must report, under this number.
    Probe(u64),
    /// It must wait.
    Wait {
        /// When to ask again, milliseconds since 1970-01-01 UTC.
        until_ms: u64,
    },
}

impl Permit {
    /// Whether it allows one message only.
    pub fn is_probe(self) -> bool {
        matches!(self, Self::Probe(_))
    }
}

/// What a call says about the stage's dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// They work.
    Good,
    /// Nothing: the message, the plugin or the host was at fault.
    Unknown,
    /// One of them is down: an external call failed, or the stage said so.
    Unavailable,
    /// The call timed out: a dependency may be down, or the message may be at fault.
    TimedOut,
}

/// A call that ended.
#[derive(Debug, Clone, Copy)]
pub struct CallReport<'a> {
    /// What it was allowed to run as.
    pub permit: Permit,
    /// What it says about the stage's dependencies.
    pub health: Health,
    /// The subject of its message.
    pub subject: &'a str,
    /// Why it failed; empty for a success.
    pub error: &'a str,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// The new state, if the call opened or closed the breaker.
    pub change: Option<BreakerState>,
    /// The dependency is known to be down: the failure uses up no attempt.
    pub uncounted: bool,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Messages run.
    Closed,
    /// Nothing runs.
    Open,
    /// One message probes.
    HalfOpen,
}

/// The state of a breaker, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerStatus {
    /// The state.
    pub state: BreakerState,
    /// Why it is open; none when it is closed.
    pub reason: Option<String>,
    /// When it opened, milliseconds since 1970-01-01 UTC; none when it is closed.
    pub opened_at_ms: Option<u64>,
    /// When the next message probes, milliseconds since 1970-01-01 UTC; none when it is closed.
    pub next_probe_at_ms: Option<u64>,
}

/// The calls since the window began.
#[derive(Debug, Default)]
struct Window {
    since_ms: u64,
    calls: u32,
    failed: u32,
    /// Hashes of the subjects that failed, with the weight of the strongest failure.
    subjects: HashMap<u64, u32>,
}

/// Weight of a failure that names a dependency.
const NAMED: u32 = 2;
/// Weight of a time-out.
const TIMED_OUT: u32 = 1;

#[derive(Debug)]
struct Opened {
    at_ms: u64,
    reason: String,
    /// When `next_probe_ms` was set: the clock may be set back.
    set_ms: u64,
    next_probe_ms: u64,
    failed_probes: u32,
    /// Numbers of the probes that were not reported yet.
    probes: BTreeSet<u64>,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open(Opened),
}

/// Counts the calls of one stage, and allows or refuses the next.
#[derive(Debug)]
pub struct CircuitBreaker {
    policy: BreakerPolicy,
    state: State,
    last_probe: u64,
    last_lane: u64,
    /// Lanes that wait for a probe, with the arrival of their longest-waiting message.
    waiting: BTreeMap<u64, Instant>,
}

impl Default for BreakerStatus {
    fn default() -> Self {
        let state = BreakerState::Closed;
        Self { state, reason: None, opened_at_ms: None, next_probe_at_ms: None }
    }
}

impl CircuitBreaker {
    /// A closed breaker that has counted no calls.
    pub fn new(policy: BreakerPolicy) -> Self {
        let state = State::Closed(Window::default());
        Self { policy, state, last_probe: 0, last_lane: 0, waiting: BTreeMap::new() }
    }

    /// A number for a lane that will ask for permits.
    pub fn register_lane(&mut self) -> u64 {
        self.last_lane += 1;
        self.last_lane
    }

    /// The present state.
    pub fn state(&self) -> BreakerState {
        match &self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open(opened) if opened.probes.is_empty() => BreakerState::Open,
            State::Open(_) => BreakerState::HalfOpen,
        }
    }

    /// The present state, with the reason.
    pub fn status(&self) -> BreakerStatus {
        let opened = match &self.state {
            State::Closed(_) => None,
            State::Open(opened) => Some(opened),
        };
        BreakerStatus {
            state: self.state(),
            reason: opened.map(|opened| opened.reason.clone()),
            opened_at_ms: opened.map(|opened| opened.at_ms),
            next_probe_at_ms: opened.map(|opened| opened.next_probe_ms),
        }
    }

    /// Whether `lane`, whose longest-waiting message arrived at `since`, may run something now. Of
    /// the lanes that ask, the one whose message has waited longest probes. It must report the call
    /// or release the probe.
    pub fn permit(&mut self, lane: u64, since: Instant, now_ms: u64) -> Permit {
        let wait_ms = self.probe_wait_ms();
        let State::Open(opened) = &mut self.state else {
            self.waiting.clear();
            return Permit::Run;
        };
        self.waiting.insert(lane, since);
        if now_ms < opened.next_probe_ms && now_ms >= opened.set_ms {
            return Permit::Wait { until_ms: opened.next_probe_ms };
        }
        let oldest = self.waiting.iter().min_by_key(|(lane, since)| (**since, **lane));
        if oldest.is_some_and(|(oldest, _)| *oldest != lane) {
            return Permit::Wait { until_ms: opened.next_probe_ms };
        }
        self.waiting.remove(&lane);
        self.last_probe += 1;
        opened.probes.insert(self.last_probe);
        // A probe that does not end does not hold up the next one.
        opened.probe_in(wait_ms, now_ms);
        Permit::Probe(self.last_probe)
    }

    /// The lane no longer waits.
    pub fn leave(&mut self, lane: u64) {
        self.waiting.remove(&lane);
    }

    /// Releases a probe that was not reported; the next lane probes.
    pub fn release_probe(&mut self, probe: u64, now_ms: u64) {
        if let State::Open(opened) = &mut self.state
            && opened.probes.remove(&probe)
        {
            opened.probe_in(0, now_ms);
        }
    }

    /// Resets the counts when another version begins to run: the failures of the previous one say
    /// nothing about it. An open breaker lets it probe immediately.
    pub fn reset_for_new_version(&mut self) {
        match &mut self.state {
            State::Closed(window) => *window = Window::default(),
            State::Open(opened) => {
                opened.failed_probes = 0;
                (opened.set_ms, opened.next_probe_ms) = (0, 0);
            }
        }
    }

    /// Closes it; false when it was closed.
    pub fn close(&mut self) -> bool {
        let was_open = matches!(self.state, State::Open(_));
        if was_open {
            self.state = State::Closed(Window::default());
        }
        was_open
    }

    /// Reports a call. A failed probe leaves the breaker open.
    pub fn report(&mut self, call: CallReport<'_>, now_ms: u64) -> Reported {
        match &self.state {
            State::Closed(_) => self.report_closed(call, now_ms),
            State::Open(_) => self.report_open(call, now_ms),
        }
    }

    fn report_closed(&mut self, call: CallReport<'_>, now_ms: u64) -> Reported {
        let unchanged = Reported { change: None, uncounted: false };
        let State::Closed(window) = &mut self.state else { return unchanged };
        let weight = match call.health {
            Health::Unknown => return unchanged,
            Health::Good => 0,
            Health::TimedOut => TIMED_OUT,
            Health::Unavailable => NAMED,
        };
        window.count(weight, call.subject, &self.policy, now_ms);
        if weight == 0 || !window.is_failing(&self.policy) {
            return unchanged;
        }
        let reason = format!(
            "{} of the last {} calls failed, for {} subjects; the last one: {}",
            window.failed,
            window.calls,
            window.subjects.len(),
            call.error
        );
        let mut opened = Opened {
            at_ms: now_ms,
            reason,
            set_ms: now_ms,
            next_probe_ms: now_ms,
            failed_probes: 0,
            probes: BTreeSet::new(),
        };
        opened.probe_in(self.policy.open_ms, now_ms);
        self.state = State::Open(opened);
        Reported { change: Some(BreakerState::Open), uncounted: self.policy.is_uncounted(0) }
    }

    fn report_open(&mut self, call: CallReport<'_>, now_ms: u64) -> Reported {
        let unchanged = Reported { change: None, uncounted: false };
        let State::Open(opened) = &mut self.state else { return unchanged };
        let is_probe = matches!(call.permit, Permit::Probe(probe) if opened.probes.remove(&probe));
        match call.health {
            Health::Unknown if is_probe => {
                opened.probe_in(0, now_ms);
                unchanged
            }
            Health::Good if is_probe => {
                self.state = State::Closed(Window { since_ms: now_ms, ..Window::default() });
                Reported { change: Some(BreakerState::Closed), uncounted: false }
            }
            // A call that was running when the breaker opened.
            Health::Unknown | Health::Good => unchanged,
            Health::Unavailable | Health::TimedOut => {
                let uncounted = self.policy.is_uncounted(opened.failed_probes);
                if is_probe {
                    opened.failed_probes = opened.failed_probes.saturating_add(1);
                    let wait_ms = self.probe_wait_ms();
                    if let State::Open(opened) = &mut self.state {
                        opened.probe_in(wait_ms, now_ms);
                    }
                }
                Reported { change: None, uncounted }
            }
        }
    }

    /// Time between two probes.
    fn probe_wait_ms(&self) -> u64 {
        let BreakerPolicy { open_ms, open_max_ms, .. } = self.policy;
        match &self.state {
            State::Closed(_) => open_ms,
            State::Open(opened) => {
                let doubled = 1_u64 << opened.failed_probes.min(16);
                open_ms.saturating_mul(doubled).min(open_max_ms.max(open_ms))
            }
        }
    }
}

impl BreakerPolicy {
    /// Whether a failure uses up no attempt after this number of failed probes.
    fn is_uncounted(&self, failed_probes: u32) -> bool {
        self.uncounted_probes.is_none_or(|limit| failed_probes < limit)
    }
}

impl Opened {
    fn probe_in(&mut self, wait_ms: u64, now_ms: u64) {
        (self.set_ms, self.next_probe_ms) = (now_ms, now_ms.saturating_add(wait_ms));
    }
}

impl Window {
    fn count(&mut self, weight: u32, subject: &str, policy: &BreakerPolicy, now_ms: u64) {
        let is_over = now_ms < self.since_ms || now_ms - self.since_ms >= policy.window_ms;
        // Calls that time out are slow, so the window is extended until one succeeds.
        if is_over && (self.failed < self.calls || self.calls == 0) {
            *self = Self { since_ms: now_ms, ..Self::default() };
        }
        self.calls = self.calls.saturating_add(1);
        if weight == 0 {
            return;
        }
        self.failed = self.failed.saturating_add(1);
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let is_full = self.subjects.len() >= (policy.min_subjects.max(1) * NAMED) as usize;
        match self.subjects.get_mut(&hasher.finish()) {
            Some(known) => *known = weight.max(*known),
            None if is_full => {}
            None => _ = self.subjects.insert(hasher.finish(), weight),
        }
    }

    fn is_failing(&self, policy: &BreakerPolicy) -> bool {
        policy.min_calls > 0
            && self.calls >= policy.min_calls
            && f64::from(self.failed) >= f64::from(self.calls) * policy.failure_share
            && self.subjects.values().sum::<u32>() >= policy.min_subjects.saturating_mul(NAMED)
    }
}
