//! Runs long-lived tasks: restarts those that end or panic, and stops the host for those that keep
//! failing.
//!
//! A failed task is restarted after a wait that doubles from [`Restarts::wait_min`] to
//! [`Restarts::wait_max`]. It is listed as failing until it has run for
//! [`Restarts::recovered_after`]. After [`Restarts::failures_max`] failures, each less than
//! [`Restarts::forgiven_after`] after the restart before it, the supervisor gives up and reports a
//! [`TaskFailure`], which stops the host. Guarantee: once the [`Supervisor`] is dropped, every task
//! is dropped at its next await, so nothing outlives a host that was never run, or whose run was
//! aborted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use super::faults::TaskFaults;
use super::health::TaskHealth;
use super::task::TaskName;
use crate::stage::handler::panic_text;

/// When a failed task is restarted.
#[derive(Debug, Clone, Copy)]
pub struct Restarts {
    /// Wait before the first restart.
    pub wait_min: Duration,
    /// Longest wait before a restart.
    pub wait_max: Duration,
    /// A task that has run this long since its restart is no longer listed as failing.
    pub recovered_after: Duration,
    /// A task that has run this long since its restart has its earlier failures forgiven.
    pub forgiven_after: Duration,
    /// The failure with this number stops the host.
    pub failures_max: u32,
}

impl Default for Restarts {
    /// About eleven seconds pass between the first failure and the last one.
    fn default() -> Self {
        Self {
            wait_min: Duration::from_millis(100),
            wait_max: Duration::from_secs(5),
            recovered_after: Duration::from_secs(1),
            forgiven_after: Duration::from_mins(1),
            failures_max: 8,
        }
    }
}

impl Restarts {
    /// The wait after this many failures in a row, at least one.
    fn wait(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.wait_min.saturating_mul(doubled).min(self.wait_max)
    }
}

/// A task failed too often; the host stops.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the background task `{task}` failed {failures} times in a row; the last time it {reason}")]
pub struct TaskFailure {
    /// The task.
    pub task: TaskName,
    /// Failures in a row.
    pub failures: u32,
    /// How it ended last.
    pub reason: String,
}

/// Owns the tasks of a host.
pub struct Supervisor {
    shared: Arc<Shared>,
    /// Ends every task when it is dropped.
    _abort: DropGuard,
}

struct Shared {
    restarts: Restarts,
    health: Arc<TaskHealth>,
    faults: TaskFaults,
    abort: CancellationToken,
    failure: watch::Sender<Option<TaskFailure>>,
    /// In which every task runs.
    span: Span,
}

impl Supervisor {
    /// A supervisor without tasks, which will run in the span that is current now.
    pub fn new(restarts: Restarts, faults: TaskFaults) -> Self {
        let abort = CancellationToken::new();
        let guard = abort.clone().drop_guard();
        let health = Arc::default();
        let failure = watch::Sender::new(None);
        let span = Span::current();
        let shared = Arc::new(Shared { restarts, health, faults, abort, failure, span });
        Self { shared, _abort: guard }
    }

    /// The state of its tasks.
    pub fn health(&self) -> Arc<TaskHealth> {
        Arc::clone(&self.shared.health)
    }

    /// An empty group of tasks.
    pub fn group(&self) -> TaskGroup {
        TaskGroup {
            shared: Arc::clone(&self.shared),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            ancestors: Vec::new(),
        }
    }

    /// The first task that has failed too often, if any.
    pub fn failure(&self) -> Option<TaskFailure> {
        self.shared.failure.borrow().clone()
    }

    /// Waits until a task has failed too often.
    pub async fn failed(&self) -> TaskFailure {
        let mut failures = self.shared.failure.subscribe();
        // The sender lives as long as `self`, so a failure is the only way out.
        match failures.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            _ => std::future::pending().await,
        }
    }
}

/// Tasks that stop together.
#[derive(Clone)]
pub struct TaskGroup {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tracker: TaskTracker,
    /// The groups that wait for this one as well.
    ancestors: Vec<TaskTracker>,
}

impl TaskGroup {
    /// Runs a task until the group stops. `subject` holds whatever must survive a restart.
    pub fn spawn<T, R>(
        &self,
        name: impl Into<TaskName>,
        subject: Arc<T>,
        run: impl Fn(Arc<T>, CancellationToken) -> R + Send + Sync + 'static,
    ) where
        T: Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let has_own_thread = name.task.has_own_thread();
        let task =
            SupervisedTask { shared: Arc::clone(&self.shared), name, stop: self.stop.clone() };
        self.shared.health.clear(&task.name);
        let counted: Vec<_> = self.ancestors.iter().map(TaskTracker::token).collect();
        let running = async move {
            let _counted = counted;
            let start = |stop| run(Arc::clone(&subject), stop);
            tokio::select! {
                biased;
                () = task.shared.abort.cancelled() => {}
                () = task.keep_running(start) => {}
            }
        };
        let running = running.instrument(self.shared.span.clone());
        let own_thread =
            has_own_thread.then(|| runtime::Builder::new_current_thread().enable_all().build());
        match own_thread {
            Some(Ok(own)) => self.tracker.spawn_blocking(move || own.block_on(running)),
            // Without a thread of its own it is only slower.
            Some(Err(_)) | None => self.tracker.spawn(running),
        };
    }

    /// A group that stops with this one at the latest.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            stop: self.stop.child_token(),
            tracker: TaskTracker::new(),
            ancestors: self.ancestors.iter().chain([&self.tracker]).cloned().collect(),
        }
    }

    /// Asks every task to stop; does not wait.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Asks every task to stop, and waits until each has finished what it was doing.
    pub async fn stop(&self) {
        self.begin_stop();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

struct SupervisedTask {
    shared: Arc<Shared>,
    name: TaskName,
    stop: CancellationToken,
}

impl SupervisedTask {
    /// Restarts the task until it is asked to stop or has failed too often.
    async fn keep_running<R>(&self, start: impl Fn(CancellationToken) -> R)
    where
        R: Future<Output = ()>,
    {
        let Shared { restarts, health, .. } = &*self.shared;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let reason = self.run_once(&start).await;
            if self.stop.is_cancelled() {
                health.clear(&self.name);
                return;
            }
            if began.elapsed() >= restarts.forgiven_after {
                failures = 0;
            }
            failures += 1;
            health.failed(&self.name, &reason);
            if failures >= restarts.failures_max {
                tracing::error!(task = %self.name, %reason, failures, "background task failed too often");
                self.give_up(failures, reason);
                return;
            }
            let wait = restarts.wait(failures);
            let restart_in_ms = wait.as_millis() as u64;
            tracing::error!(task = %self.name, %reason, failures, restart_in_ms, "background task failed, restarting");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => health.restarted(&self.name),
            }
        }
    }

    /// Runs the task until it ends; tells how.
    async fn run_once<R>(&self, start: &impl Fn(CancellationToken) -> R) -> String
    where
        R: Future<Output = ()>,
    {
        let running = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                () = self.shared.faults.injected(self.name.task) => panic!("injected fault"),
                () = start(self.stop.clone()) => {}
            }
        });
        let running = running.catch_unwind();
        tokio::pin!(running);
        let ended = tokio::select! {
            biased;
            ended = &mut running => ended,
            () = tokio::time::sleep(self.shared.restarts.recovered_after) => {
                self.shared.health.clear(&self.name);
                running.await
            }
        };
        match ended {
            Ok(()) => "ended although nothing stopped it".to_owned(),
            Err(panic) => {
                let reason = format!("panicked: {}", panic_text(&*panic));
                if self.stop.is_cancelled() {
                    tracing::error!(task = %self.name, %reason, "background task failed while it stopped");
                }
                reason
            }
        }
    }

    /// Stops the host. The first failure is the one that is reported.
    fn give_up(&self, failures: u32, reason: String) {
        let failure = TaskFailure { task: self.name.clone(), failures, reason };
        self.shared.failure.send_if_modified(|reported| {
            let first = reported.is_none();
            if first {
                *reported = Some(failure);
            }
            first
        });
    }
}

#[cfg(test)]
mod tests;
