//! Uncommitted writes applied to a list of stored keys.

use std::collections::{BTreeMap, BTreeSet};

use crate::stage::state_writes::StateWrites;

/// Writes that a list of keys must reflect: whether each key is present.
pub(super) struct Overlay(BTreeMap<String, bool>);

impl Overlay {
    pub(super) fn of(writes: &StateWrites, prefix: &str, after: &str) -> Self {
        let concerned =
            writes.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        Self(concerned.map(|(key, value)| (key.clone(), value.is_some())).collect())
    }

    /// How many keys the writes remove.
    pub(super) fn removed(&self) -> usize {
        self.0.values().filter(|present| !**present).count()
    }

    /// The keys `below` with the writes applied, at most `limit`.
    pub(super) fn over(self, below: Vec<String>, limit: usize) -> Vec<String> {
        let mut keys: BTreeSet<String> =
            below.into_iter().filter(|key| self.0.get(key) != Some(&false)).collect();
        keys.extend(self.0.into_iter().filter_map(|(key, present)| present.then_some(key)));
        keys.into_iter().take(limit).collect()
    }
}
