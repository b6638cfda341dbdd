//! All counts at one time, and their difference for an order.

use std::time::Duration;

use anyhow::Result;

use super::process::Usage;
use super::steps::{self, COUNTED};
use crate::allocations::{self, SLOTS};
use postrider::internals::WriteAheadLog;

/// Figures of a step: allocations, their bytes, and what events count.
pub(super) const FIGURES: usize = COUNTED.len() + 2;

/// All counts so far.
pub(super) struct Snapshot {
    pub(super) steps: [[u64; FIGURES]; SLOTS],
    pub(super) process: Usage,
}

impl Snapshot {
    pub(super) fn now() -> Result<Self> {
        let (allocations, counts) = (allocations::counts(), steps::counts());
        let figures = |slot: usize| {
            let mut figures = [0; FIGURES];
            figures[..2].copy_from_slice(&[allocations[slot].count, allocations[slot].bytes]);
            figures[2..].copy_from_slice(&counts[slot]);
            figures
        };
        Ok(Self { steps: std::array::from_fn(figures), process: Usage::now()? })
    }
}

/// The counts before and after a time.
pub(super) struct Window {
    pub(super) lasted: Duration,
    pub(super) from: Snapshot,
    pub(super) to: Snapshot,
    pub(super) log: Option<(WriteAheadLog, WriteAheadLog)>,
}

impl Window {
    fn increase(&self, count: impl Fn(&Snapshot) -> u64) -> f64 {
        count(&self.to).saturating_sub(count(&self.from)) as f64
    }

    fn log_bytes(&self) -> Option<f64> {
        self.log.map(|(before, after)| after.bytes.saturating_sub(before.bytes) as f64)
    }
}

/// A time with orders, and one without.
pub(super) struct PerOrder<'a> {
    pub(super) run: &'a Window,
    pub(super) rest: &'a Window,
    pub(super) orders: u64,
}

impl PerOrder<'_> {
    /// How much of a count is due to an order.
    pub(super) fn of(&self, count: impl Fn(&Snapshot) -> u64) -> f64 {
        self.share(self.run.increase(&count), self.rest.increase(&count))
    }

    /// Bytes of the server's write-ahead log.
    pub(super) fn log_bytes(&self) -> Option<f64> {
        Some(self.share(self.run.log_bytes()?, self.rest.log_bytes()?))
    }

    fn share(&self, with_orders: f64, without: f64) -> f64 {
        let times = self.run.lasted.as_secs_f64() / self.rest.lasted.as_secs_f64();
        ((with_orders - without * times) / self.orders as f64).max(0.0)
    }
}
