//! Tasks that end, panic and are dropped, under a supervisor that waits milliseconds.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::background::task::Task;

fn supervisor(faults: TaskFaults) -> Supervisor {
    let restarts = Restarts {
        wait_min: Duration::from_millis(1),
        wait_max: Duration::from_millis(4),
        recovered_after: Duration::from_millis(250),
        failures_max: 4,
        ..Restarts::default()
    };
    Supervisor::new(restarts, faults)
}

/// Counts starts and drops of a task's runs.
#[derive(Default)]
struct Runs {
    started: AtomicU32,
    running: AtomicU32,
    changed: tokio::sync::Notify,
}

struct Run(Arc<Runs>);

impl Run {
    fn start(runs: &Arc<Runs>) -> (Self, u32) {
        runs.running.fetch_add(1, Ordering::SeqCst);
        let before = runs.started.fetch_add(1, Ordering::SeqCst);
        runs.changed.notify_waiters();
        (Self(Arc::clone(runs)), before)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Runs {
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }
}

#[tokio::test]
async fn a_task_that_ends_or_panics_is_restarted_and_counted() {
    let supervisor = supervisor(TaskFaults::default());
    let (group, runs) = (supervisor.group(), Arc::new(Runs::default()));
    group.spawn(Task::Relay, Arc::clone(&runs), |runs, stop| async move {
        match Run::start(&runs) {
            (_run, 0) => {}
            (_run, 1) => panic!("a host bug"),
            (_run, _) => stop.cancelled().await,
        }
    });
    runs.until(|runs| runs.started.load(Ordering::SeqCst) == 3).await;
    let health = supervisor.health();
    assert_eq!(health.restarts(), [(Task::Relay.into(), 2)]);
    let failing = health.failing();
    assert_eq!(failing.len(), 1, "it has not run for long enough to count as recovered");
    assert_eq!(failing[0].reason, "panicked: a host bug");
    while !health.failing().is_empty() {
        tokio::task::yield_now().await;
    }
    group.stop().await;
    assert_eq!(runs.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_task_that_keeps_failing_is_reported_by_name_and_given_up() {
    let faults = TaskFaults::new();
    faults.inject(Task::Retention);
    let supervisor = supervisor(faults);
    let group = supervisor.group();
    let subject = Arc::new(());
    let held = Arc::downgrade(&subject);
    group.spawn(Task::Retention, subject, |_, stop| async move { stop.cancelled().await });
    let failure = supervisor.failed().await;
    assert_eq!(
        failure.to_string(),
        "the background task `retention` failed 4 times in a row; \
         the last time it panicked: injected fault"
    );
    group.stop().await;
    assert!(held.upgrade().is_none(), "what the task owned is kept although it was given up");
    assert_eq!(supervisor.health().failing().len(), 1);
}

#[tokio::test]
async fn failures_are_forgiven_after_a_long_run() {
    let restarts = Restarts { forgiven_after: Duration::ZERO, ..Restarts::default() };
    let restarts = Restarts { wait_min: Duration::from_millis(1), failures_max: 2, ..restarts };
    let supervisor = Supervisor::new(restarts, TaskFaults::default());
    let (group, runs) = (supervisor.group(), Arc::new(Runs::default()));
    group.spawn(Task::Relay, Arc::clone(&runs), |runs, _| async move { drop(Run::start(&runs)) });
    tokio::select! {
        failure = supervisor.failed() => panic!("{failure}"),
        () = runs.until(|runs| runs.started.load(Ordering::SeqCst) > 5) => {}
    }
}

#[tokio::test]
async fn dropping_the_supervisor_drops_its_tasks() {
    let supervisor = supervisor(TaskFaults::default());
    let runs = Arc::new(Runs::default());
    for task in [Task::Relay, Task::Retention] {
        supervisor.group().child().spawn(task, Arc::clone(&runs), |runs, _| async move {
            let _run = Run::start(&runs);
            // Deaf to its stop token.
            std::future::pending::<()>().await;
        });
    }
    runs.until(|runs| runs.running.load(Ordering::SeqCst) == 2).await;
    drop(supervisor);
    runs.until(|runs| runs.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_group_waits_for_the_tasks_of_its_children() {
    let supervisor = supervisor(TaskFaults::default());
    let (group, runs) = (supervisor.group(), Arc::new(Runs::default()));
    group.child().spawn(Task::StageWorker, Arc::clone(&runs), |runs, stop| async move {
        let _run = Run::start(&runs);
        stop.cancelled().await;
        tokio::task::yield_now().await;
    });
    runs.until(|runs| runs.running.load(Ordering::SeqCst) == 1).await;
    group.stop().await;
    assert_eq!(runs.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_group_waits_for_the_tasks_of_all_its_descendants() {
    let supervisor = supervisor(TaskFaults::default());
    for depth in 0..4 {
        let (group, finish) = (supervisor.group(), Arc::new(tokio::sync::Notify::new()));
        let descendant = (0..depth).fold(group.clone(), |group, _| group.child());
        descendant.spawn(Task::StageWorker, Arc::clone(&finish), |finish, stop| async move {
            stop.cancelled().await;
            finish.notified().await;
        });
        let mut stopping = std::pin::pin!(group.stop());
        let waited = tokio::time::timeout(Duration::from_millis(20), &mut stopping).await;
        assert!(waited.is_err(), "depth {depth}");
        finish.notify_one();
        stopping.await;
    }
}

#[test]
fn waits_double_up_to_the_longest() {
    let restarts = Restarts::default();
    let waits: Vec<u128> = (1..8).map(|failures| restarts.wait(failures).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000]);
}

#[test]
fn every_task_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Task::ALL.iter().map(|task| task.name()).collect();
    assert_eq!(names.len(), Task::ALL.len());
}
