//! State keys that other hosts write as well: the lane locks them before its next batches run. A batch
//! that conflicted runs again with all the keys that it wrote locked, so it conflicts once.
//!
//! It only saves reruns; the commit's version check carries the guarantee. Bounds: [`KEYS_MAX`]
//! keys for [`BATCHES`] batches.

use std::collections::BTreeSet;

/// Keys that a lane locks at most.
const KEYS_MAX: usize = 512;
/// Batches for which a key stays locked after its last conflict.
const BATCHES: u32 = 64;

#[derive(Default)]
pub(super) struct ContendedKeys {
    keys: BTreeSet<String>,
    batches_left: u32,
    /// Keys for the next batch only.
    rerun: Vec<String>,
}

impl ContendedKeys {
    /// The batch that wrote these keys runs again.
    pub(super) fn run_again(&mut self, written: impl Iterator<Item = String>) {
        self.rerun = written.take(KEYS_MAX).collect();
    }

    /// Adds keys on which a commit was refused.
    pub(super) fn note(&mut self, conflicts: &[String]) {
        if conflicts.is_empty() {
            return;
        }
        if self.keys.len() + conflicts.len() > KEYS_MAX {
            self.keys.clear();
        }
        self.keys.extend(conflicts.iter().take(KEYS_MAX).cloned());
        self.batches_left = BATCHES;
    }

    /// Counts a batch, and returns the keys to lock for it.
    pub(super) fn next_batch(&mut self) -> Vec<String> {
        if self.batches_left == 0 {
            self.keys.clear();
        }
        self.batches_left = self.batches_left.saturating_sub(1);
        let mut keys = std::mem::take(&mut self.rerun);
        keys.extend(self.keys.iter().cloned());
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_locked_for_a_number_of_batches() {
        let mut contended = ContendedKeys::default();
        assert!(contended.next_batch().is_empty());
        contended.note(&["k".to_owned()]);
        contended.run_again(std::iter::once("written".to_owned()));
        assert_eq!(contended.next_batch(), ["written", "k"]);
        for _ in 1..BATCHES {
            assert_eq!(contended.next_batch(), ["k"]);
        }
        assert!(contended.next_batch().is_empty());
    }

    #[test]
    fn the_number_of_locked_keys_is_bounded() {
        let mut contended = ContendedKeys::default();
        let keys: Vec<String> = (0..2 * KEYS_MAX).map(|number| number.to_string()).collect();
        contended.note(&keys);
        assert_eq!(contended.next_batch().len(), KEYS_MAX);
        contended.note(&["last".to_owned()]);
        assert_eq!(contended.next_batch(), ["last"]);
    }
}
