//! What a stage does on this host, in numbers: for Prometheus and for the bench.
//!
//! Bounds: four distributions per stage, of bounded size, whatever the number of messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::distribution::Distribution;
use crate::store::Verdict;

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

    /// Its name in metrics, spans and log lines.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
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

/// A delivery that was settled and acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// How.
    pub outcome: OutcomeKind,
    /// Time since this host received its message.
    pub time: Duration,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

/// The numbers of one stage on this host, since it started.
pub struct StageMetrics {
    settled: [AtomicU64; OutcomeKind::ALL.len()],
    /// Refused messages without a dead letter.
    refused: AtomicU64,
    /// Times from the receipt of a message to its acknowledgement.
    pub deliveries: Distribution,
    /// Times of calls.
    pub calls: Distribution,
    /// Times for which messages waited for the stage.
    pub waits: Distribution,
    /// Numbers of attempts that deliveries took which the stage completed.
    pub attempts: Distribution,
    /// Lanes that are open.
    lanes: AtomicU64,
    /// Time for which lanes ran or committed batches, microseconds, summed.
    busy_us: AtomicU64,
    /// Time for which lanes waited for the rate limit, microseconds, summed.
    rate_wait_us: AtomicU64,
    /// Most memory of a guest after a call.
    memory_bytes: AtomicU64,
}

impl Default for StageMetrics {
    fn default() -> Self {
        Self {
            settled: Default::default(),
            refused: AtomicU64::new(0),
            deliveries: Distribution::of_times(),
            calls: Distribution::of_times(),
            waits: Distribution::of_times(),
            attempts: Distribution::of_counts(),
            lanes: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            rate_wait_us: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
        }
    }
}

impl StageMetrics {
    /// Counts deliveries that were settled and acknowledged.
    pub fn record(&self, settled: &[Settled]) {
        for one in settled {
            self.settled[one.outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.deliveries.record(settled.iter().map(|one| one.time.as_micros() as u64));
        let done = settled.iter().filter(|one| one.outcome == OutcomeKind::Done);
        self.attempts.record(done.map(|one| u64::from(one.attempt)));
    }

    /// Records a call: how long its message waited for it, how long it took, and the guest's memory
    /// after it in bytes.
    pub fn record_call(&self, waited: Duration, took: Duration, memory_bytes: u64) {
        self.waits.record_time(waited);
        self.calls.record_time(took);
        self.memory_bytes.fetch_max(memory_bytes, Ordering::Relaxed);
    }

    /// Most memory that a guest had after a call, in bytes; 0 for a native stage.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Counts a forged or unreadable message that gets no dead letter because there are too many.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Those messages.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Deliveries that were settled like this.
    pub fn count(&self, outcome: OutcomeKind) -> u64 {
        self.settled[outcome as usize].load(Ordering::Relaxed)
    }

    /// A lane opened.
    pub fn open_lane(&self) {
        self.lanes.fetch_add(1, Ordering::Relaxed);
    }

    /// A lane closed.
    pub fn close_lane(&self) {
        self.lanes.fetch_sub(1, Ordering::Relaxed);
    }

    /// The lanes that are open.
    pub fn lanes(&self) -> u64 {
        self.lanes.load(Ordering::Relaxed)
    }

    /// A lane ran and committed a batch for this long.
    pub fn count_busy(&self, time: Duration) {
        self.busy_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// For how long lanes ran and committed batches, summed.
    pub fn busy(&self) -> Duration {
        Duration::from_micros(self.busy_us.load(Ordering::Relaxed))
    }

    /// A lane waited for the rate limit for this long.
    pub fn count_rate_wait(&self, time: Duration) {
        self.rate_wait_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// For how long lanes waited for the rate limit, summed.
    pub fn rate_wait(&self) -> Duration {
        Duration::from_micros(self.rate_wait_us.load(Ordering::Relaxed))
    }
}
