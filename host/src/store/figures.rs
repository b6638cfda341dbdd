//! What a store counts about itself, for metrics: what waits, what finished, and its commits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::StageBacklog;
use crate::domain::distribution::Distribution;

/// What waits in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Open deliveries of the stages that have some.
    pub backlog: Vec<StageBacklog>,
    /// Events in the outbox that are due.
    pub outbox: u64,
    /// When the oldest of them was due, milliseconds since 1970-01-01 UTC.
    pub outbox_oldest_ms: Option<u64>,
    /// Dead letters that wait for a decision, by stage.
    pub dead_letters: Vec<(String, u64)>,
}

/// A subject for which nothing has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedSubject {
    /// Its last status.
    pub status: String,
    /// When it was submitted, milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When it finished.
    pub finished_ms: u64,
}

/// The groups of operations that the store's writer committed since the host started.
pub struct CommitMetrics {
    /// Operations of a group.
    pub operations: Distribution,
    /// Times of a group, from its first statement to its answers.
    pub times: Distribution,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self { operations: Distribution::of_counts(), times: Distribution::of_times() }
    }
}

impl CommitMetrics {
    /// Records a group.
    pub(super) fn record(&self, operations: usize, took: Duration) {
        self.operations.record([operations as u64]);
        self.times.record_time(took);
    }
}

/// What a host last counted in its store.
#[derive(Default)]
pub struct Counted {
    figures: ArcSwapOption<StoreFigures>,
    /// Times from submission to the end, by kind and last status.
    finished: Mutex<BTreeMap<(String, String), Arc<Distribution>>>,
}

impl Counted {
    /// What waits; none while nothing was counted.
    pub fn figures(&self) -> Option<Arc<StoreFigures>> {
        self.figures.load_full()
    }

    /// Replaces what waits.
    pub fn set(&self, figures: StoreFigures) {
        self.figures.store(Some(Arc::new(figures)));
    }

    /// Adds subjects of a kind that finished.
    pub fn add_finished(&self, kind: &str, subjects: &[FinishedSubject]) {
        for subject in subjects {
            let times = self.times(kind, &subject.status);
            times.record([subject.finished_ms.saturating_sub(subject.created_ms) * 1_000]);
        }
    }

    fn times(&self, kind: &str, status: &str) -> Arc<Distribution> {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind.to_owned(), status.to_owned());
        Arc::clone(finished.entry(key).or_insert_with(|| Arc::new(Distribution::of_times())))
    }

    /// Times from submission to the end, by kind and last status.
    pub fn finished(&self) -> Vec<((String, String), Arc<Distribution>)> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.iter().map(|(key, times)| (key.clone(), Arc::clone(times))).collect()
    }
}
