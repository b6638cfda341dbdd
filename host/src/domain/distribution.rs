//! How measured values are distributed, in bounded memory: for metrics.
//!
//! Bounds: one histogram of a fixed range with two significant digits, at most 30 kB, whatever the
//! number of values.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer times are recorded as this one: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Greater counts are recorded as this one.
const COUNT_MAX: u64 = 100_000;

/// Values that were measured since the host started.
pub struct Distribution(Mutex<Recorded>);

/// A copy of the values of a [`Distribution`].
#[derive(Clone)]
pub struct Recorded {
    /// The values: microseconds, or counts.
    pub values: Histogram<u64>,
    /// Their sum.
    pub sum: u64,
}

impl Distribution {
    fn up_to(most: u64) -> Self {
        let values = Histogram::new_with_bounds(1, most, 2).expect("the bounds are in order");
        Self(Mutex::new(Recorded { values, sum: 0 }))
    }

    /// Of times, in microseconds.
    pub fn of_times() -> Self {
        Self::up_to(LONGEST_US)
    }

    /// Of counts.
    pub fn of_counts() -> Self {
        Self::up_to(COUNT_MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records values: microseconds, or counts.
    pub fn record(&self, values: impl IntoIterator<Item = u64>) {
        let mut recorded = self.lock();
        for value in values {
            recorded.sum += value;
            recorded.values.saturating_record(value.max(1));
        }
    }

    /// Records one time.
    pub fn record_time(&self, time: Duration) {
        self.record([time.as_micros() as u64]);
    }

    /// What was recorded.
    pub fn recorded(&self) -> Recorded {
        self.lock().clone()
    }
}

impl Recorded {
    /// The number of values up to each bound and above the one before; what is above the last bound is
    /// left out. The bounds are in order.
    pub fn counts_within(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        for recorded in self.values.iter_recorded() {
            let place = bounds.partition_point(|bound| *bound < recorded.value_iterated_to());
            if let Some(count) = counts.get_mut(place) {
                *count += recorded.count_at_value();
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_counted_up_to_its_bound() {
        let times = Distribution::of_times();
        times.record([10, 900, 30_000, 49_000]);
        times.record_time(Duration::from_secs(7));
        times.record_time(Duration::from_hours(2));
        let recorded = times.recorded();
        assert_eq!(recorded.counts_within(&[1_000, 50_000, 10_000_000]), [2, 2, 1]);
        assert_eq!(recorded.values.len(), 6);
        assert_eq!(recorded.sum, 10 + 900 + 30_000 + 49_000 + 7_000_000 + 7_200_000_000);
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let counts = Distribution::of_counts();
        counts.record([0, 1, 2, 3]);
        assert_eq!(counts.recorded().counts_within(&[1, 2, 3]), [2, 1, 1]);
    }
}
