//! Build, start, shut down.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use postrider::internals::{Task, TaskFaults};
use postrider::{Host, HostHandle, RunError};
use tokio::sync::Notify;

use super::{approving, order};
use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![shutdown_finishes_the_work_in_flight, aborted_host_stops_its_calls];

async fn start(env: &TestEnv) -> Result<HostHandle> {
    Ok(approving(Host::builder().config(env.config()?)).build().await?.start()?)
}

async fn shutdown_finishes_the_work_in_flight(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let handle = start(&env).await?;
    assert_eq!(handle.address(), None, "no address is bound unless asked");
    for id in 0..20 {
        let _ = handle.submit("order", order(&id.to_string())).await?;
    }
    let app = handle.app();
    eventually("an order to be approved", || async {
        Ok((app.status(&"order/19".parse()?).await?.as_deref() == Some("authorized")).then_some(()))
    })
    .await?;
    handle.shutdown().await?;
    assert!(app.submit("order", order("late")).await.is_err(), "the store is closed");
    // Everything was released, so another host can open it.
    let handle = start(&env).await?;
    for id in 0..20 {
        let status = handle.app().status(&format!("order/{id}").parse()?).await?;
        assert!(status.is_some(), "order {id} is durable");
    }
    Ok(handle.shutdown().await?)
}

/// Says that it was called, and never answers.
struct Stuck {
    called: Arc<Notify>,
    /// Dropped with the call.
    alive: std::sync::Weak<()>,
    keeps: std::sync::Mutex<Option<Arc<()>>>,
}

#[async_trait::async_trait]
impl postrider::NativeStage for Stuck {
    fn describe(&self) -> postrider::Description {
        postrider::Description::new("stuck", "1.0.0", "Never answers").consumes(["order.created"])
    }

    async fn handle(
        &self,
        _: &mut postrider::NativeContext,
        _: &postrider::Event,
    ) -> Result<Vec<postrider::Emitted>, postrider::NativeError> {
        let _alive = self.keeps.lock().ok().and_then(|mut keeps| keeps.take());
        self.called.notify_one();
        std::future::pending().await
    }
}

async fn aborted_host_stops_its_calls(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "[stages.stuck.limits]\ndeadline_ms = 600000\n").await?;
    let called = Arc::new(Notify::new());
    let call = Arc::new(());
    let alive = Arc::downgrade(&call);
    let stuck =
        Stuck { called: Arc::clone(&called), alive: alive.clone(), keeps: Some(call).into() };
    assert!(stuck.alive.upgrade().is_some());
    let host = Host::builder().config(env.config()?).stage(stuck).build().await?;
    let _ = host.submit("order", order("1")).await?;
    let running = tokio::spawn(host.run_until(std::future::pending()));
    called.notified().await;
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    eventually("the call to be dropped", || async { Ok(alive.upgrade().is_none().then_some(())) })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_keeps_failing_is_reported_by_the_handle() -> Result<()> {
    let env = TestEnv::empty("")?;
    let faults = TaskFaults::new();
    let builder = Host::builder().config(env.config()?).task_faults(faults.clone());
    let handle = builder.build().await?.start()?;
    faults.inject(Task::Relay);
    let RunError::TaskFailed { task, failures, .. } = handle.failed().await else {
        anyhow::bail!("another error");
    };
    assert_eq!((task.as_str(), failures), ("relay", 8));
    let error = handle.shutdown().await.err().context("the relay failed")?;
    assert!(error.to_string().contains("`relay` failed 8 times"), "{error}");
    Ok(())
}
