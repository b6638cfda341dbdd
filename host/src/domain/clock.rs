//! Time as a parameter. The host reads the wall clock only through [`Clock`], so that tests decide
//! what time it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of wall-clock time, in milliseconds since 1970-01-01 UTC.
///
/// ```
/// use postrider::{Clock, SystemClock};
///
/// /// A clock that is an hour fast.
/// struct Fast;
///
/// impl Clock for Fast {
///     fn now_ms(&self) -> u64 {
///         SystemClock.now_ms() + 3_600_000
///     }
/// }
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
}

/// The clock of the operating system.
///
/// ```
/// use postrider::{Clock as _, SystemClock};
///
/// assert!(SystemClock.now_ms() > 1_600_000_000_000);
/// ```
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// The time of a host: continuous, whatever happens to the clock that it follows.
///
/// It runs at the speed of the monotonic clock and corrects a difference from its reference (the
/// operating system's clock, or the database's) gradually, at [`SLEW_DIVISOR`]. So a clock that jumps
/// by an hour or a day neither expires what is waiting nor delays it; time never runs backwards. The
/// time for which a machine was suspended counts where the system says how long that was.
#[derive(Debug)]
pub struct SteadyClock {
    started: Instant,
    /// How long the machine had been up then, suspensions included; none where that is unknown.
    up_us: Option<i64>,
    /// How long it was suspended since, which the monotonic clock does not show.
    suspended_us: AtomicI64,
    /// Follows the operating system's clock; otherwise what [`follow`](Self::follow) is told.
    follows_system: bool,
    state: Mutex<Steady>,
}

/// A correction takes this many times as long as the difference that it corrects.
const SLEW_DIVISOR: i64 = 4;
/// Time between two looks at the operating system's clock.
const LOOK_US: i64 = 1_000_000;
/// A larger difference is reported.
const JUMP_US: i64 = 5_000_000;
/// A clock that is behind what was stored by more than this is believed all the same.
const STORED_AHEAD_MAX_US: i64 = 2 * 24 * 60 * 60 * 1_000_000;

/// All times are microseconds since 1970-01-01 UTC, or since the start.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "units belong into names")]
struct Steady {
    /// The time at `elapsed_us`.
    base_us: i64,
    elapsed_us: i64,
    /// The difference that is still to be corrected.
    behind_us: i64,
}

impl Steady {
    fn at(&self, elapsed_us: i64) -> i64 {
        let passed_us = (elapsed_us - self.elapsed_us).max(0);
        let most_us = passed_us / SLEW_DIVISOR;
        self.base_us + passed_us + self.behind_us.clamp(-most_us, most_us)
    }

    /// Follows the reference from here on; true when it has jumped.
    fn follow(&mut self, elapsed_us: i64, reference_us: i64) -> bool {
        let base_us = self.at(elapsed_us);
        let was_close = self.behind_us.abs() <= JUMP_US;
        *self = Self { base_us, elapsed_us, behind_us: reference_us - base_us };
        was_close && self.behind_us.abs() > JUMP_US
    }
}

impl SteadyClock {
    /// Follows the operating system's clock.
    pub fn following_system() -> Self {
        Self::start(true)
    }

    /// Starts at the operating system's time, and then follows what it is told.
    pub fn following_store() -> Self {
        Self::start(false)
    }

    fn start(follows_system: bool) -> Self {
        let base_us = system_us();
        let state = Steady { base_us, elapsed_us: 0, behind_us: 0 };
        Self {
            started: Instant::now(),
            up_us: up_us(),
            suspended_us: AtomicI64::new(0),
            follows_system,
            state: Mutex::new(state),
        }
    }

    fn elapsed_us(&self) -> i64 {
        self.started.elapsed().as_micros() as i64 + self.suspended_us.load(Ordering::Relaxed)
    }

    /// Asks how long the machine was suspended.
    fn count_suspension(&self) {
        let Some((then_us, now_us)) = self.up_us.zip(up_us()) else { return };
        let suspended_us = now_us - then_us - self.started.elapsed().as_micros() as i64;
        // Anything shorter is the inexactness of both clocks.
        if suspended_us > LOOK_US {
            self.suspended_us.fetch_max(suspended_us, Ordering::Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, Steady> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a reference that shows `now_ms`.
    pub fn follow(&self, now_ms: u64) {
        // Often enough, and no more: a busy store tells the time with each commit.
        if self.elapsed_us() - self.state().elapsed_us < LOOK_US {
            return;
        }
        self.count_suspension();
        let jumped = self.state().follow(self.elapsed_us(), now_ms as i64 * 1_000);
        if jumped {
            self.report();
        }
    }

    /// Begins at the reference's time. Before anything depends on the clock.
    pub fn begin_at(&self, now_ms: u64) {
        let (base_us, elapsed_us) = (now_ms as i64 * 1_000, self.elapsed_us());
        *self.state() = Steady { base_us, elapsed_us, behind_us: 0 };
    }

    /// Begins no earlier than `stored_ms`, when something was stored: the system's clock was set back
    /// since, unless what was stored is too far ahead to be believed.
    pub fn begin_after(&self, stored_ms: u64) {
        let (stored_us, elapsed_us) = (stored_ms as i64 * 1_000, self.elapsed_us());
        let mut state = self.state();
        let ahead_us = stored_us - state.at(elapsed_us);
        if (1..=STORED_AHEAD_MAX_US).contains(&ahead_us) {
            *state = Steady { base_us: stored_us, elapsed_us, behind_us: -ahead_us };
        }
    }

    fn report(&self) {
        let behind_ms = self.state().behind_us / 1_000;
        tracing::warn!(behind_ms, "the clock jumped; following it gradually");
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> u64 {
        let mut elapsed_us = self.elapsed_us();
        let mut state = self.state();
        let mut jumped = false;
        if self.follows_system && elapsed_us - state.elapsed_us >= LOOK_US {
            self.count_suspension();
            elapsed_us = self.elapsed_us();
            jumped = state.follow(elapsed_us, system_us());
        }
        let now_us = state.at(elapsed_us);
        drop(state);
        if jumped {
            self.report();
        }
        (now_us / 1_000) as u64
    }
}

fn system_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// A clock that tests advance by hand.
///
/// ```
/// use postrider::{Clock as _, ManualClock};
///
/// let clock = ManualClock::at(1_000);
/// clock.advance(500);
/// assert_eq!(clock.now_ms(), 1_500);
/// ```
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn at(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// How long the machine has been up, suspensions included.
fn up_us() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some((seconds * 1e6) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const DAY: i64 = 24 * 60 * 60 * SECOND;

    #[test]
    fn a_jump_changes_the_time_gradually_and_never_backwards() {
        for jump in [DAY, -DAY, 3_600 * SECOND, -3_600 * SECOND] {
            let mut clock = Steady { base_us: 10 * DAY, elapsed_us: 0, behind_us: 0 };
            let mut last = clock.at(0);
            for step in 1..=600 {
                let elapsed = step * SECOND;
                clock.follow(elapsed, 10 * DAY + elapsed + jump);
                let now = clock.at(elapsed);
                assert!(now > last, "time runs backwards after a jump by {jump}");
                let passed = now - 10 * DAY;
                let off = (passed - elapsed).abs();
                assert!(off <= elapsed / SLEW_DIVISOR, "{off} after {elapsed}");
                last = now;
            }
            // Back again: what was corrected is corrected back.
            for step in 601..=1_300 {
                let elapsed = step * SECOND;
                clock.follow(elapsed, 10 * DAY + elapsed);
            }
            assert_eq!(clock.at(1_300 * SECOND), 10 * DAY + 1_300 * SECOND);
        }
    }

    #[test]
    fn a_small_difference_is_corrected() {
        let mut clock = Steady { base_us: 0, elapsed_us: 0, behind_us: 0 };
        for step in 1..=10 {
            clock.follow(step * SECOND, step * SECOND + SECOND / 2);
        }
        assert_eq!(clock.at(10 * SECOND), 10 * SECOND + SECOND / 2);
    }

    #[test]
    fn a_clock_that_was_set_back_begins_at_what_was_stored() {
        let clock = SteadyClock::following_system();
        let now_ms = SystemClock.now_ms();
        let hour_ms = 3_600_000;
        clock.begin_after(now_ms - hour_ms);
        assert!(clock.now_ms() < now_ms + hour_ms / 2);
        clock.begin_after(now_ms + hour_ms);
        assert!(clock.now_ms() >= now_ms + hour_ms);
        // Ten years ahead: that clock was wrong.
        clock.begin_after(now_ms + 10 * 365 * 24 * hour_ms);
        assert!(clock.now_ms() < now_ms + 2 * hour_ms);
    }
}
