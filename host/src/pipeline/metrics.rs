//! What a stage does on this host, in numbers: for Prometheus and for the bench.
//!
//! Bounds: one histogram of fixed range per stage (1 µs to 1 h, two significant digits, about 30
//! kB), whatever the number of messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::store::Verdict;

/// Longer times are recorded as this one.
const LONGEST_US: u64 = 3_600_000_000;

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The stage returned its events.
    Done,
    /// Another attempt follows.
    Retried,
    /// The delivery was dead-lettered.
    DeadLettered,
    /// It was settled without a call: the version does not consume its type, its subject is
    /// cancelled, or its chain is stopped.
    Skipped,
    /// The same attempt follows later.
    Deferred,
}

impl OutcomeKind {
    /// Each with its name in metrics.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Done, "done"),
        (Self::Retried, "retried"),
        (Self::DeadLettered, "dead-lettered"),
        (Self::Skipped, "skipped"),
        (Self::Deferred, "deferred"),
    ];
}

impl From<&Verdict> for OutcomeKind {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done(_) => Self::Done,
            Verdict::Retry { .. } => Self::Retried,
            Verdict::Dead { .. } => Self::DeadLettered,
            Verdict::Skipped => Self::Skipped,
            Verdict::Deferred { .. } => Self::Deferred,
        }
    }
}

/// The numbers of one stage on this host, since it started.
pub struct StageMetrics {
    settled: [AtomicU64; OutcomeKind::ALL.len()],
    /// Microseconds, summed.
    total_us: AtomicU64,
    times: Mutex<Histogram<u64>>,
}

impl Default for StageMetrics {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are in order");
        Self { settled: Default::default(), total_us: AtomicU64::new(0), times: Mutex::new(times) }
    }
}

impl StageMetrics {
    fn times_mut(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts deliveries that were settled and acknowledged, with the time since each was received.
    pub fn record(&self, settled: impl IntoIterator<Item = (OutcomeKind, Duration)>) {
        let mut times = self.times_mut();
        for (outcome, time) in settled {
            let micros = time.as_micros() as u64;
            self.settled[outcome as usize].fetch_add(1, Ordering::Relaxed);
            self.total_us.fetch_add(micros, Ordering::Relaxed);
            times.saturating_record(micros.max(1));
        }
    }

    /// Deliveries that were settled like this.
    pub fn count(&self, outcome: OutcomeKind) -> u64 {
        self.settled[outcome as usize].load(Ordering::Relaxed)
    }

    /// Times from the receipt of a message to its acknowledgement, microseconds.
    pub fn times(&self) -> Histogram<u64> {
        self.times_mut().clone()
    }

    /// Sum of those times, microseconds.
    pub fn total_us(&self) -> u64 {
        self.total_us.load(Ordering::Relaxed)
    }
}
