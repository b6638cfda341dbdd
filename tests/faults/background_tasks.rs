//! Background tasks that panic: the host restarts them, shows them, and stops when one keeps
//! failing.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use postrider::internals::{Impact, Task, TaskFaults};
use postrider::{App, Host, RunError};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    every_background_task_is_restarted_after_a_panic,
    a_relay_that_keeps_failing_stops_the_host,
];

/// A host whose tasks can be made to panic.
struct FaultyHost {
    client: Client,
    app: Arc<App>,
    faults: TaskFaults,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), RunError>>,
}

impl FaultyHost {
    async fn start(env: &TestEnv) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let client = Client::new(format!("http://{}", listener.local_addr()?));
        let faults = TaskFaults::new();
        let builder =
            Host::builder().config(env.config()?).listener(listener).task_faults(faults.clone());
        let host = builder.build().await?;
        let app = host.app();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(host.run_until(async { _ = stopped.await }));
        client.wait_until_ready().await?;
        Ok(Self { client, app, faults, stop, running })
    }

    /// Names of the tasks that are failing, without the stage.
    fn failing(&self) -> Vec<String> {
        let kind = |name: String| name.split(':').next().unwrap_or_default().to_owned();
        self.app.failing_tasks().iter().map(|task| kind(task.name.to_string())).collect()
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(self.running.await??)
    }

    async fn wait_for_recovery(&self) -> Result<()> {
        eventually("every task to recover", || async {
            let (status, _) = self.client.get("/ready").await?;
            Ok((self.failing().is_empty() && status == StatusCode::OK).then_some(()))
        })
        .await
    }

    async fn process_order(&self, id: &str) -> Result<Value> {
        let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"] });
        let accepted = self.client.post("/orders", &order).await?;
        ensure!(accepted.0.is_success(), "{id}: {accepted:?}");
        self.client.wait_for_status(id, "ready").await
    }

    /// The restarts that `/metrics` counts for a task, in all stages together.
    async fn restarts(&self, task: Task) -> Result<Option<u64>> {
        let metrics = self.client.text("/metrics").await?;
        let name = task.name();
        let counts = metrics.lines().filter_map(|line| {
            let (label, count) = line.split_once("\"} ")?;
            let label = label.strip_prefix("postrider_task_restarts_total{task=\"")?;
            (label.split(':').next() == Some(name)).then(|| count.parse::<u64>().ok())?
        });
        Ok(counts.reduce(|all, count| all + count))
    }
}

async fn every_background_task_is_restarted_after_a_panic(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = FaultyHost::start(&env).await?;
    host.process_order("before").await?;
    let mut absent = Vec::new();
    for task in Task::ALL.iter().copied() {
        let name = task.name();
        if host.restarts(task).await?.is_none() {
            absent.push(task);
            continue;
        }
        host.wait_for_recovery().await?;
        host.faults.inject(task);
        eventually(&format!("{name} to fail"), || async {
            Ok(host.failing().iter().any(|failing| failing == name).then_some(()))
        })
        .await?;
        // Without its server the host answers nothing.
        if task != Task::HttpServer {
            let (status, readiness) = host.client.get("/ready").await?;
            let expected = match task.impact() {
                Impact::Critical => StatusCode::SERVICE_UNAVAILABLE,
                Impact::Upkeep => StatusCode::OK,
            };
            assert_eq!(status, expected, "{name}: {readiness}");
            let failing = readiness["failing_tasks"].as_array().context("failing_tasks")?;
            let named = |entry: &Value| {
                entry["task"].as_str().is_some_and(|task| task.split(':').next() == Some(name))
                    && entry["reason"] == "panicked: injected fault"
            };
            assert!(failing.iter().any(named), "{name}: {readiness}");
        }
        host.faults.clear(task);
        host.wait_for_recovery().await?;
        host.process_order(&format!("after-{name}")).await?;
        assert!(host.restarts(task).await? > Some(0), "{name}: restarts are not counted");
    }
    let expected: &[Task] = match backend {
        Backend::Embedded => &[
            Task::RabbitmqPublishing,
            Task::RabbitmqConsuming,
            // Without a certificate, and without tokens.
            Task::TlsCertificates,
            Task::ApiKeys,
            Task::JwtKeys,
        ],
        Backend::Servers => &[Task::TlsCertificates, Task::ApiKeys, Task::JwtKeys],
    };
    assert_eq!(absent, expected, "these tasks do not run");
    host.stop().await
}

async fn a_relay_that_keeps_failing_stops_the_host(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = FaultyHost::start(&env).await?;
    host.faults.inject(Task::Relay);
    let readiness = eventually("the host not to be ready", || async {
        let (status, readiness) = host.client.get("/ready").await?;
        Ok((status == StatusCode::SERVICE_UNAVAILABLE).then_some(readiness))
    })
    .await?;
    assert_eq!(readiness["failing_tasks"][0]["task"], "relay", "{readiness}");
    let error = host.running.await?.expect_err("the host went on without its relay").to_string();
    assert!(error.contains("`relay` failed 8 times"), "{error}");
    // It closed its store, so another host can open it.
    let host = FaultyHost::start(&env).await?;
    host.process_order("later").await?;
    host.stop().await
}
