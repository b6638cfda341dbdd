//! The circuit breaker of one stage on this host: it stops the stage while a dependency is down.
//!
//! Closed: calls are counted over a window; when enough of them fail with an error that a retry may
//! resolve, the breaker opens. Open: nothing runs for a while. Half-open: one message at a time
//! probes; a success closes the breaker, a failure opens it again for longer. Pure: the caller
//! passes the time. Bounds: one window of counts, one wait that grows to a limit, and a number of
//! failed probes that do not count as attempts.

use serde::{Deserialize, Serialize};

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Calls in the window before it may open; 0: it never opens.
    pub min_calls: u32,
    /// Share of failed calls, 0 to 1, at which it opens.
    pub failure_share: f64,
    /// Length of the window, milliseconds.
    pub window_ms: u64,
    /// Milliseconds that it stays open at first; doubled after each failed probe.
    pub open_ms: u64,
    /// Longest time that it stays open, milliseconds.
    pub open_max_ms: u64,
    /// Failed probes in a row that do not count as attempts of their messages.
    pub uncounted_probes: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            min_calls: 20,
            failure_share: 0.5,
            window_ms: 10_000,
            open_ms: 1_000,
            open_max_ms: 30_000,
            uncounted_probes: 20,
        }
    }
}

/// Whether a lane may run something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may run whole batches.
    Run,
    /// It may run one message, whose outcome it must report.
    Probe,
    /// It must wait.
    Wait {
        /// When to ask again, milliseconds since 1970-01-01 UTC.
        until_ms: u64,
    },
}

/// What a call says about the stage's dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The stage succeeded, or the message itself was at fault.
    Good,
    /// It failed with an error that a retry may resolve.
    Failing,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Messages run.
    Closed,
    /// Nothing runs.
    Open,
    /// One message probes.
    HalfOpen,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { since_ms: u64, calls: u32, failed: u32 },
    Open { until_ms: u64 },
    HalfOpen,
}

/// Counts the calls of one stage, and allows or refuses the next.
#[derive(Debug)]
pub struct CircuitBreaker {
    policy: BreakerPolicy,
    state: State,
    failed_probes: u32,
}

impl CircuitBreaker {
    /// A closed breaker that has counted no calls.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed { since_ms: 0, calls: 0, failed: 0 }, failed_probes: 0 }
    }

    /// The present state.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    /// Whether a lane may run something now. A lane that gets [`Permit::Probe`] must report the call
    /// or release the probe.
    pub fn permit(&mut self, now_ms: u64) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Run,
            State::Open { until_ms } if now_ms < until_ms => Permit::Wait { until_ms },
            State::Open { .. } => {
                self.state = State::HalfOpen;
                Permit::Probe
            }
            State::HalfOpen => Permit::Wait { until_ms: now_ms + self.policy.open_ms },
        }
    }

    /// Releases a probe that was not reported; the next lane probes.
    pub fn release_probe(&mut self, now_ms: u64) {
        if let State::HalfOpen = self.state {
            self.state = State::Open { until_ms: now_ms };
        }
    }

    /// Resets the counts when another version begins to run: the failures of the previous one say
    /// nothing about it. An open breaker lets it probe immediately.
    pub fn reset_for_new_version(&mut self) {
        self.failed_probes = 0;
        self.state = match self.state {
            State::Closed { .. } => State::Closed { since_ms: 0, calls: 0, failed: 0 },
            State::Open { .. } | State::HalfOpen => State::Open { until_ms: 0 },
        };
    }

    /// Whether the failure of a probe does not count as an attempt of its message.
    pub fn probe_is_uncounted(&self) -> bool {
        self.failed_probes < self.policy.uncounted_probes
    }

    /// Reports a call. Returns the new state if the call opened or closed the breaker; a failed probe
    /// leaves it open.
    pub fn report(&mut self, call: Health, now_ms: u64) -> Option<BreakerState> {
        match (&mut self.state, call) {
            (State::Closed { since_ms, calls, failed }, _) => {
                if now_ms.saturating_sub(*since_ms) >= self.policy.window_ms {
                    (*since_ms, *calls, *failed) = (now_ms, 0, 0);
                }
                *calls += 1;
                *failed += u32::from(call == Health::Failing);
                let enough = self.policy.min_calls > 0 && *calls >= self.policy.min_calls;
                let opens =
                    enough && f64::from(*failed) >= f64::from(*calls) * self.policy.failure_share;
                if opens {
                    self.open(now_ms);
                }
                opens.then_some(BreakerState::Open)
            }
            (State::HalfOpen, Health::Good) => {
                self.failed_probes = 0;
                self.state = State::Closed { since_ms: now_ms, calls: 0, failed: 0 };
                Some(BreakerState::Closed)
            }
            (State::HalfOpen, Health::Failing) => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                self.open(now_ms);
                None
            }
            // The rest of a batch that was running when the breaker opened.
            (State::Open { .. }, _) => None,
        }
    }

    fn open(&mut self, now_ms: u64) {
        let doubled = 1_u64 << self.failed_probes.min(16);
        let wait_ms = self.policy.open_ms.saturating_mul(doubled).min(self.policy.open_max_ms);
        self.state = State::Open { until_ms: now_ms + wait_ms };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        min_calls: 4,
        failure_share: 0.5,
        window_ms: 1_000,
        open_ms: 100,
        open_max_ms: 300,
        uncounted_probes: 2,
    };

    fn opened_at(now_ms: u64) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::new(POLICY);
        for _ in 0..4 {
            breaker.report(Health::Failing, now_ms);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn it_opens_when_enough_calls_fail() {
        let mut breaker = CircuitBreaker::new(POLICY);
        for call in [Health::Failing, Health::Failing, Health::Good] {
            assert_eq!(breaker.report(call, 5_000), None);
        }
        assert_eq!(breaker.report(Health::Good, 5_000), Some(BreakerState::Open), "two of four");
        assert_eq!(breaker.permit(5_050), Permit::Wait { until_ms: 5_100 });
        let mut breaker = CircuitBreaker::new(POLICY);
        for call in [Health::Failing, Health::Good, Health::Good, Health::Good, Health::Good] {
            breaker.report(call, 5_000);
        }
        assert_eq!(breaker.state(), BreakerState::Closed, "one of five");
    }

    #[test]
    fn calls_before_the_window_do_not_count() {
        let mut breaker = CircuitBreaker::new(POLICY);
        for _ in 0..3 {
            breaker.report(Health::Failing, 5_000);
        }
        breaker.report(Health::Failing, 6_000);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn one_message_probes_at_a_time_and_a_success_closes_it() {
        let mut breaker = opened_at(5_000);
        assert_eq!(breaker.permit(5_100), Permit::Probe);
        assert!(matches!(breaker.permit(5_100), Permit::Wait { .. }), "a second probe");
        assert_eq!(breaker.report(Health::Good, 5_110), Some(BreakerState::Closed));
        assert_eq!((breaker.permit(5_110), breaker.state()), (Permit::Run, BreakerState::Closed));
    }

    #[test]
    fn failed_probes_double_the_wait_and_count_as_attempts_after_a_number() {
        let mut breaker = opened_at(5_000);
        let mut now_ms = 5_100;
        for (wait_ms, uncounted) in [(200, true), (300, true), (300, false)] {
            assert_eq!(breaker.permit(now_ms), Permit::Probe);
            assert_eq!(breaker.probe_is_uncounted(), uncounted);
            assert_eq!(breaker.report(Health::Failing, now_ms), None);
            assert_eq!(breaker.permit(now_ms), Permit::Wait { until_ms: now_ms + wait_ms });
            now_ms += wait_ms;
        }
    }

    #[test]
    fn a_new_version_probes_immediately_and_starts_without_failures() {
        let mut breaker = opened_at(5_000);
        for now_ms in [5_100, 5_300] {
            assert_eq!(breaker.permit(now_ms), Permit::Probe);
            breaker.report(Health::Failing, now_ms);
        }
        assert_eq!(breaker.permit(5_301), Permit::Wait { until_ms: 5_600 });
        breaker.reset_for_new_version();
        assert_eq!((breaker.permit(5_301), breaker.probe_is_uncounted()), (Permit::Probe, true));
        assert_eq!(breaker.report(Health::Good, 5_302), Some(BreakerState::Closed));
        for _ in 0..3 {
            breaker.report(Health::Failing, 5_303);
        }
        breaker.reset_for_new_version();
        assert_eq!(
            breaker.report(Health::Failing, 5_304),
            None,
            "failures of the previous version count"
        );
    }

    #[test]
    fn a_released_probe_goes_to_the_next_lane() {
        let mut breaker = opened_at(5_000);
        assert_eq!(breaker.permit(5_100), Permit::Probe);
        breaker.release_probe(5_150);
        assert_eq!(breaker.permit(5_150), Permit::Probe);
    }

    #[test]
    fn a_minimum_of_zero_calls_disables_it() {
        let mut breaker = CircuitBreaker::new(BreakerPolicy { min_calls: 0, ..POLICY });
        assert!((0..1_000).all(|_| breaker.report(Health::Failing, 5_000).is_none()));
    }
}
