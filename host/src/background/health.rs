//! Which supervised tasks are failing, and how often each was restarted: for `/ready` and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::task::TaskName;

/// A task that ended or panicked and has not recovered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingTask {
    /// The task.
    pub name: TaskName,
    /// How it ended last.
    pub reason: String,
}

#[derive(Default)]
struct State {
    restarts: u64,
    /// How it ended last; none while it runs as it should.
    failure: Option<String>,
}

/// The state of every supervised task of a host.
#[derive(Default)]
pub struct TaskHealth(Mutex<BTreeMap<TaskName, State>>);

impl TaskHealth {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskName, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks that are failing now, by name.
    pub fn failing(&self) -> Vec<FailingTask> {
        let failing = |(name, state): (&TaskName, &State)| {
            let reason = state.failure.clone()?;
            Some(FailingTask { name: name.clone(), reason })
        };
        self.lock().iter().filter_map(failing).collect()
    }

    /// How often each task was restarted since the host was built, by name.
    pub fn restarts(&self) -> Vec<(TaskName, u64)> {
        self.lock().iter().map(|(name, state)| (name.clone(), state.restarts)).collect()
    }

    /// The task runs as it should, or was asked to stop.
    pub(super) fn clear(&self, name: &TaskName) {
        self.lock().entry(name.clone()).or_default().failure = None;
    }

    pub(super) fn failed(&self, name: &TaskName, reason: &str) {
        self.lock().entry(name.clone()).or_default().failure = Some(reason.to_owned());
    }

    pub(super) fn restarted(&self, name: &TaskName) {
        self.lock().entry(name.clone()).or_default().restarts += 1;
    }
}
