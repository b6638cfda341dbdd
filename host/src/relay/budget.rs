//! The bytes of events that the relay holds: those that wait, and those in flight.
//!
//! Bound: the budget, except for one group of rows that alone is larger, and for what a claim takes
//! beyond it: at most one event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be held.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    used: Arc<AtomicU64>,
    max: u64,
}

/// Bytes that are held; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { used: Arc::default(), max }
    }

    /// Reserves bytes if they are free, or if nothing else is held.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reserved> {
        let fits = |used: u64| {
            let after = used.saturating_add(bytes);
            (used == 0 || after <= self.max).then_some(after)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Reserved { used: Arc::clone(&self.used), bytes })
    }

    /// Reserves bytes that are held already.
    pub(super) fn take(&self, bytes: u64) -> Reserved {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Reserved { used: Arc::clone(&self.used), bytes }
    }

    /// Bytes that are free; none if there are none.
    pub(super) fn free(&self) -> Option<u64> {
        let free = self.max.saturating_sub(self.used.load(Ordering::Acquire));
        (free > 0).then_some(free)
    }
}

impl Reserved {
    /// Adds those of another one of the same budget.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_free_again_once_they_are_not_held() {
        let budget = Budget::new(100);
        let mut one = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let two = budget.reserve(40).unwrap();
        assert_eq!(budget.free(), None);
        one.join(two);
        assert_eq!(budget.free(), None, "joined ones are held");
        drop(one);
        assert_eq!(budget.free(), Some(100));
        // A group that is larger than the budget is held alone.
        let large = budget.reserve(500).unwrap();
        assert!(budget.reserve(1).is_none());
        drop(large);
        drop(budget.take(500));
        assert_eq!(budget.free(), Some(100));
    }
}
