//! Each alert of `deploy/prometheus/alerts.yml` is seen firing: Prometheus scrapes real hosts, the
//! test causes the condition, and the alert fires. Before, it is silent.
//!
//! An alert without a condition here fails `every_alert_has_a_condition`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use futures::future::try_join_all;
use postrider::internals::{Task, TaskFaults};
use postrider::{
    Clock, Description, Emitted, Event, Failure, HostBuilder, NativeContext, NativeError,
    NativeStage, SystemClock,
};
use serde_json::json;
use sqlx::Connection as _;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::guests::WatStage;
use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::Load;
use crate::support::process::{HostProcess, unused_port};
use crate::support::prometheus::{Expected, Prometheus};
use crate::support::proxy::Proxy;
use crate::support::servers::{Servers, amqp_url, postgres_url};

on_both_back_ends![
    alerts_about_stages_and_requests_fire,
    alert_about_slow_commits_fires,
    alert_about_a_stage_without_a_plugin_after_a_restart_fires,
];

const fn about(alert: &'static str, name: &'static str, value: &'static str) -> Expected {
    Expected { alert, label: (name, value), also: &[] }
}

/// About stages whose attempts fail while they cause other alerts.
const ATTEMPTS_FAIL: Expected =
    Expected { also: &["bank", "picky"], ..about("PostriderAttemptsFail", "stage", "failing") };

/// Caused on one host, each by a stage of its own or by a client.
const BY_STAGES_AND_REQUESTS: [Expected; 9] = [
    about("PostriderBreakerOpen", "stage", "bank"),
    ATTEMPTS_FAIL,
    about("PostriderDeadLetters", "stage", "picky"),
    about("PostriderUnroutedEvents", "type", "order.created"),
    about("PostriderTaskRestarts", "task", "retention"),
    about("PostriderLanesSaturated", "stage", "busy"),
    about("PostriderRefusesRequests", "limit", "streams"),
    about("PostriderStageHeld", "stage", "watcher"),
    about("PostriderStageNotConsumed", "stage", "inventory"),
];

/// Caused by a plugin that is missing after a restart.
const BY_A_RESTART: [Expected; 1] = [about("PostriderStageNotConsumed", "stage", "payment")];

/// Caused by a broker that does not answer for ten minutes of the host's clock.
const BY_THE_BROKER: [Expected; 3] = [
    about("PostriderStageNotConsumed", "stage", "payment"),
    about("PostriderOutboxStuck", "", ""),
    about("PostriderBacklogOld", "stage", "payment"),
];

/// Caused by what waited meanwhile, when it answers again.
const BY_ITS_RETURN: [Expected; 1] = [about("PostriderQueueWaitHigh", "stage", "payment")];

const BY_THE_DATABASE: [Expected; 1] = [about("PostriderCommitsSlow", "", "")];

const BY_TWO_HOSTS: [Expected; 1] = [about("PostriderVersionsDiffer", "stage", "picky")];

const BY_CONNECTIONS: [Expected; 1] = [about("PostriderFilesExhausted", "job", "postrider")];

const BY_A_CRASH: [Expected; 1] = [about("PostriderDown", "job", "postrider")];

#[test]
fn every_alert_has_a_condition() -> Result<()> {
    let groups: [&[Expected]; 8] = [
        &BY_STAGES_AND_REQUESTS,
        &BY_A_RESTART,
        &BY_THE_BROKER,
        &BY_ITS_RETURN,
        &BY_THE_DATABASE,
        &BY_TWO_HOSTS,
        &BY_CONNECTIONS,
        &BY_A_CRASH,
    ];
    let mut caused: Vec<&str> = groups.concat().iter().map(|one| one.alert).collect();
    let mut alerts = super::alerts()?;
    caused.sort_unstable();
    caused.dedup();
    alerts.sort_unstable();
    assert_eq!(caused, alerts, "the alerts that a test causes are those of the rules");
    Ok(())
}

/// What a stage does with each event `<name>.poke`.
#[derive(Debug, Clone, Copy)]
enum Does {
    Nothing,
    Fail(&'static str),
    Reject,
    /// Takes so long.
    Work(Duration),
}

struct Behaving {
    name: &'static str,
    does: Does,
}

#[async_trait]
impl NativeStage for Behaving {
    fn describe(&self) -> Description {
        Description::new(self.name, "1.0.0", "Behaves as a test wants")
            .consumes([format!("{}.poke", self.name)])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        match self.does {
            Does::Nothing => {}
            Does::Fail(code) => return Err(Failure::retry(code, "no answer").into()),
            Does::Reject => return Err(Failure::reject("refused", "never").into()),
            Does::Work(time) => tokio::time::sleep(time).await,
        }
        Ok(vec![])
    }
}

const STAGES: [Behaving; 5] = [
    Behaving { name: "watcher", does: Does::Nothing },
    Behaving { name: "bank", does: Does::Fail("bank-down") },
    Behaving { name: "failing", does: Does::Fail("failed") },
    Behaving { name: "picky", does: Does::Reject },
    Behaving { name: "busy", does: Does::Work(Duration::from_millis(100)) },
];

/// The failing stage repeats its attempts for as long as the test lasts. The busy one holds more than
/// it runs at a time, so that its lane does not wait for the broker; its batches are short, because
/// the time of a batch counts when it ends.
const TOML: &str = "http.streams_max = 1\n\
    [stages.bank.breaker]\nunavailable = [\"bank-down\"]\n\
    [stages.failing.retry]\nmax_attempts = 10000\ninitial_ms = 200\nmax_ms = 200\n\
    [stages.busy]\nprefetch = 8\nbatch_max = 2\n";

/// Sends events for a stage, each about a subject of its own: a breaker counts those that failed.
async fn poke(client: &Client, stage: &str, times: usize) -> Result<()> {
    for number in 0..times {
        let subject = format!("{stage}-{number}");
        let path = format!("/events/{stage}.poke");
        let (status, answer) =
            client.post_with_header(&path, &json!({}), ("ce-subject", &subject)).await?;
        ensure!(status.is_success(), "{stage}: {answer}");
    }
    Ok(())
}

async fn post_orders(client: &Client, ids: std::ops::Range<usize>) -> Result<()> {
    for id in ids {
        let order =
            json!({ "order_id": format!("a-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        let (status, answer) = client.post("/orders", &order).await?;
        ensure!(status.is_success(), "{answer}");
    }
    Ok(())
}

async fn listen(client: &Client) -> Result<reqwest::Response> {
    let request = reqwest::Client::new().get(format!("{}/events", client.url));
    Ok(request.header("accept", "text/event-stream").send().await?)
}

async fn alerts_about_stages_and_requests_fire(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, TOML).await?;
    env.add_plugin("inventory", "inventory")?;
    let faults = TaskFaults::new();
    let host = env
        .start_with(|builder| {
            STAGES.into_iter().fold(builder.task_faults(faults.clone()), HostBuilder::stage)
        })
        .await?;
    let client = host.client.clone();
    client.wait_until_serving("inventory.wasm").await?;
    // Healthy: each stage that succeeds has done something.
    poke(&client, "watcher", 5).await?;
    poke(&client, "busy", 5).await?;
    let prometheus = Prometheus::watch(&[&client]).await?;
    prometheus.ensure_silent(&BY_STAGES_AND_REQUESTS).await?;

    client.post("/stages/watcher/pause", &json!({ "reason": "a test" })).await?;
    std::fs::remove_file(env.plugins().join("inventory.wasm"))?;
    post_orders(&client, 0..2).await?;
    poke(&client, "bank", 40).await?;
    poke(&client, "failing", 3).await?;
    poke(&client, "picky", 2).await?;
    let stream = listen(&client).await?;
    ensure!(stream.status().is_success(), "{stream:?}");
    let pressed = client.clone();
    let pressure = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            // More than the busy stage can do, and one stream more than allowed.
            poke(&pressed, "busy", 4).await?;
            ensure!(!listen(&pressed).await?.status().is_success(), "a second stream");
        }
        #[expect(unreachable_code, reason = "the type of the task")]
        Ok(())
    }));
    let restarts = fail_task(&client, &faults, Task::Retention);
    tokio::try_join!(restarts, prometheus.wait_for(&BY_STAGES_AND_REQUESTS))?;
    ensure!(!pressure.is_finished(), "the clients failed");
    drop((pressure, stream));
    host.stop().await
}

/// Lets a task fail until it was restarted five times; the eighth failure would stop the host.
async fn fail_task(client: &Client, faults: &TaskFaults, task: Task) -> Result<()> {
    faults.inject(task);
    let series = format!("postrider_task_restarts_total{{task=\"{}\"}} 5", task.name());
    eventually("five restarts", || async {
        Ok(client.text("/metrics").await?.lines().any(|line| line == series).then_some(()))
    })
    .await?;
    faults.clear(task);
    Ok(())
}

/// A delivery waits for a stage whose plugin was deleted while the only host was stopped.
async fn alert_about_a_stage_without_a_plugin_after_a_restart_fires(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    env.add_plugin("payment", "payment")?;
    let host = env.start_consuming().await?;
    let prometheus = Prometheus::watch(&[&host.client]).await?;
    prometheus.ensure_silent(&BY_A_RESTART).await?;
    host.client.post("/stages/payment/pause", &json!({ "reason": "a test" })).await?;
    post_orders(&host.client, 0..1).await?;
    host.stop().await?;
    std::fs::remove_file(env.plugins().join("payment.wasm"))?;
    let host = env.start().await?;
    let prometheus = Prometheus::watch(&[&host.client]).await?;
    prometheus.wait_for(&BY_A_RESTART).await?;
    host.stop().await
}

/// For how long the broker does not answer.
const OUTAGE_MS: u64 = 10 * 60_000;

/// The system's clock, and by how many milliseconds this one is ahead.
#[derive(Default)]
struct ClockAhead(AtomicU64);

impl Clock for ClockAhead {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_about_what_waits_for_the_broker_fire() -> Result<()> {
    let toml = "broker.local_handover = false\n[stages.payment]\nrate_per_s = 10\n";
    let mut env = TestEnv::empty(toml)?;
    env.add_plugin("payment", "payment")?;
    let broker = amqp_url();
    let port = reqwest::Url::parse(&broker)?.port().unwrap_or(5672);
    let proxy = Proxy::to(port).await?;
    let mut servers = Servers::create().await?;
    let proxied = broker.replace(&format!(":{port}"), &format!(":{}", proxy.port()));
    servers.host_urls = Some((postgres_url(), proxied));
    env.servers = Some(servers);
    let clock = Arc::new(ClockAhead::default());
    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    let client = host.client.clone();
    post_orders(&client, 0..5).await?;
    for id in 0..5 {
        client.wait_for_status(&format!("a-{id}"), "authorized").await?;
    }
    let prometheus = Prometheus::watch(&[&client]).await?;
    prometheus.ensure_silent(&BY_THE_BROKER).await?;
    prometheus.ensure_silent(&BY_ITS_RETURN).await?;

    proxy.cut();
    proxy.reset();
    post_orders(&client, 5..405).await?;
    // The host's clock is that of the test, so the outage need not last.
    clock.0.store(OUTAGE_MS, Ordering::SeqCst);
    prometheus.wait_for(&BY_THE_BROKER).await?;
    prometheus.ensure_silent(&BY_ITS_RETURN).await?;
    proxy.pass();
    proxy.reset();
    prometheus.wait_for(&BY_ITS_RETURN).await?;
    host.stop().await
}

/// Longer than a commit may take.
const HOLD: Duration = Duration::from_millis(1_500);

/// Keeps the store's writer waiting again and again, as another program on the database may.
async fn hold_back_writer(env: &TestEnv) -> Result<()> {
    let written = "SELECT count(*) FROM events";
    loop {
        let before = env.query_count(written).await?;
        if env.servers.is_some() {
            let hold = HOLD.as_secs_f64();
            let sql = format!(
                "BEGIN; LOCK TABLE events IN EXCLUSIVE MODE; SELECT pg_sleep({hold}); ROLLBACK"
            );
            env.execute(&sql).await?;
        } else {
            let options = SqliteConnectOptions::new().filename(env.database());
            let options = options.busy_timeout(Duration::from_secs(30));
            let mut connection = SqliteConnection::connect_with(&options).await?;
            sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
            // The time is the condition.
            tokio::time::sleep(HOLD).await;
            connection.close().await?;
        }
        eventually("a commit of the host", || async {
            Ok((env.query_count(written).await? > before).then_some(()))
        })
        .await?;
    }
}

async fn alert_about_slow_commits_fires(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = env.start().await?;
    let load = Load::start(std::slice::from_ref(&host.client), 2, Duration::from_millis(20));
    load.wait_for_accepted(20).await?;
    let prometheus = Prometheus::watch(&[&host.client]).await?;
    prometheus.ensure_silent(&BY_THE_DATABASE).await?;
    tokio::select! {
        fired = prometheus.wait_for(&BY_THE_DATABASE) => fired?,
        failed = hold_back_writer(&env) => failed?,
    }
    load.stop().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alert_about_different_versions_fires() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, "").await?;
    let (plain, changed) =
        (WatStage::named("picky"), WatStage { init: "(nop)", ..WatStage::named("picky") });
    let plugin = env.plugins().join("picky.wasm");
    std::fs::write(&plugin, plain.build()?)?;
    let other_folder = tempfile::tempdir()?;
    let other_plugin = other_folder.path().join("picky.wasm");
    std::fs::copy(&plugin, &other_plugin)?;
    let mut other_config = env.config()?;
    other_config.plugins.dir = other_folder.path().to_owned();
    let hosts = [
        env.start_consuming().await?,
        env.start_with(|builder| builder.config(other_config)).await?,
    ];
    hosts[1].client.wait_until_serving("picky.wasm").await?;
    let prometheus = Prometheus::watch(&[&hosts[0].client, &hosts[1].client]).await?;
    prometheus.ensure_silent(&BY_TWO_HOSTS).await?;
    std::fs::write(&other_plugin, changed.build()?)?;
    prometheus.wait_for(&BY_TWO_HOSTS).await?;
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

/// Files that the host may open: the default of most systems.
const FILES_MAX: usize = 1_024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_about_a_host_without_files_and_without_a_process_fire() -> Result<()> {
    // Connections that send nothing stay open for as long as the test needs them.
    let env = TestEnv::shipped("http.head_timeout_ms = 120000\n")?;
    let port = unused_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let process = HostProcess::start_limited(&env, port, &format!("ulimit -n {FILES_MAX}; "), &[])?;
    process.wait_until_ready(&client, &env).await?;
    let prometheus = Prometheus::watch(&[&client]).await?;
    prometheus.ensure_silent(&BY_CONNECTIONS).await?;
    prometheus.ensure_silent(&BY_A_CRASH).await?;

    // Clients that open connections and send nothing, until the host accepts no more.
    let connect = |_| TcpStream::connect(("127.0.0.1", port));
    let connections = try_join_all((0..FILES_MAX).map(connect)).await?;
    prometheus.wait_for(&BY_CONNECTIONS).await?;
    drop(connections);
    process.kill()?;
    prometheus.wait_for(&BY_A_CRASH).await
}
