//! Fault injection for tests: makes supervised tasks panic by name.
//!
//! A host that was built without faults, as every host outside of tests is, waits for none.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::task::Task;

/// Tasks that panic until they are cleared.
#[derive(Debug, Clone, Default)]
pub struct TaskFaults(Option<Arc<watch::Sender<BTreeSet<Task>>>>);

impl TaskFaults {
    /// Faults that can be injected later.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Makes `task` panic now and at each restart; for a task that stages have, in every stage.
    pub fn inject(&self, task: Task) {
        self.change(|tasks| _ = tasks.insert(task));
    }

    /// Lets `task` run again.
    pub fn clear(&self, task: Task) {
        self.change(|tasks| _ = tasks.remove(&task));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Task>)) {
        if let Some(tasks) = &self.0 {
            tasks.send_modify(change);
        }
    }

    /// Waits until `task` is to panic.
    pub(super) async fn injected(&self, task: Task) {
        if let Some(tasks) = &self.0
            && tasks.subscribe().wait_for(|tasks| tasks.contains(&task)).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
