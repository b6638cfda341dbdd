//! Services that stop, crash, hang, or lose their data or network under load, and hosts that are
//! killed beside others. After each fault nothing is lost or duplicated, no attempt is used up, and
//! the hosts recover within seconds.
//!
//! Each test starts private servers. The tests measure time, so `cargo xtask test` runs them one
//! after another. The counts are in docs/faults.md.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postrider_tests::private_servers::{PrivatePostgres, PrivateRabbit};
use rand::RngExt as _;
use reqwest::StatusCode;

use crate::faults::host_crashes::crash_count;
use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::load::{AMPLE_STOCK, Load, assert_nothing_lost_or_duplicated};
use crate::support::process::HostProcess;
use crate::support::proxy::Proxy;
use crate::support::servers::Servers;

/// Longest time between the return of a service and the recovery of the hosts.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Duration of an outage.
const OUTAGE: Duration = Duration::from_secs(4);

/// Of two hosts, the first hands events over to its own stages, the second sends all of them through
/// the broker.
const HANDOVER: [&[(&str, &str)]; 2] = [&[], &[("POSTRIDER_BROKER__LOCAL_HANDOVER", "false")]];

/// Two hosts under load, on private servers.
struct FaultScenario {
    env: TestEnv,
    clients: Vec<Client>,
    hosts: Vec<HostProcess>,
    load: Option<Load>,
}

impl FaultScenario {
    async fn start(servers: Servers) -> Result<Self> {
        let mut env = TestEnv::shipped(AMPLE_STOCK)?;
        env.servers = Some(servers);
        let mut scenario = Self { env, clients: Vec::new(), hosts: Vec::new(), load: None };
        for environment in HANDOVER {
            let (host, client) = HostProcess::start_ready_with(&scenario.env, environment).await?;
            scenario.clients.push(client);
            scenario.hosts.push(host);
        }
        let load = Load::start(&scenario.clients, 4, Duration::from_millis(5));
        load.wait_for_accepted(200).await?;
        scenario.load = Some(load);
        Ok(scenario)
    }

    fn load(&self) -> &Load {
        self.load.as_ref().expect("the load runs until the end")
    }

    /// Returns `None` while the database does not answer.
    async fn settled(&self) -> Option<i64> {
        self.env.query_count("SELECT count(*) FROM deliveries WHERE status <> 'open'").await.ok()
    }

    /// Waits until deliveries are settled again, within `RECOVERY_MAX`, and the hosts accept more
    /// orders.
    async fn wait_until_recovered(&self, what: &str) -> Result<()> {
        let began = Instant::now();
        let before =
            eventually(&format!("an answer after: {what}"), || async { Ok(self.settled().await) })
                .await?;
        let more = || async { Ok(self.settled().await.filter(|settled| *settled > before + 20)) };
        if let Err(error) = eventually(&format!("work after: {what}"), more).await {
            return Err(error.context(self.diagnostics().await));
        }
        let took = began.elapsed();
        println!("{what}: working again after {:.1} s", took.as_secs_f64());
        ensure!(took < RECOVERY_MAX, "{what}: working again only after {took:?}");
        self.load().wait_for_accepted(100).await
    }

    /// Logs, stages and database sessions of hosts that made no progress.
    async fn diagnostics(&self) -> String {
        let log = std::fs::read_to_string(self.env.folder.path().join("log")).unwrap_or_default();
        let last: Vec<&str> =
            log.lines().filter(|line| !line.contains("postrider::guest")).rev().take(20).collect();
        let accepted = self.load.as_ref().map(Load::accepted);
        let mut said = vec![
            format!("accepted: {accepted:?}; the hosts' last lines, newest first:"),
            last.join("\n"),
        ];
        for client in &self.clients {
            said.push(format!("stages of {}: {:?}", client.url, client.get("/stages").await));
        }
        let sessions = "SELECT concat_ws(' | ', pid, state, wait_event_type, wait_event, now() - xact_start, now() - state_change, query) \
                        FROM pg_stat_activity WHERE datname = current_database()";
        said.push("sessions of the database:".to_owned());
        said.extend(
            self.env.query_texts(sessions).await.unwrap_or_else(|error| vec![format!("{error:#}")]),
        );
        said.join("\n")
    }

    async fn end(mut self, what: &str) -> Result<()> {
        let accepted = self.load.take().expect("stopped once").stop().await?;
        let counted =
            assert_nothing_lost_or_duplicated(&self.env, &self.clients[0], &accepted).await;
        let orders = match counted {
            Ok(orders) => orders,
            Err(error) => return Err(error.context(self.diagnostics().await)),
        };
        println!("{what}: {orders} orders, nothing lost or duplicated, no attempt used up");
        self.hosts.into_iter().try_for_each(HostProcess::kill)
    }
}

fn prefetch_of_every_consumer(rabbit: &PrivateRabbit) -> Result<Vec<u32>> {
    let table = rabbit.ask(&["list_consumers", "queue_name", "prefetch_count"])?;
    let stages = table.lines().filter(|line| line.contains(".stage.") && !line.contains(".dlq"));
    Ok(stages.filter_map(|line| line.split_whitespace().last()?.parse().ok()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn hosts_recover_from_every_broker_failure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rabbit = PrivateRabbit::start(folder.path())?;
    let servers = Servers::create_on(None, Some(rabbit.url())).await?;
    let queue = servers.queue("payment");
    let scenario = FaultScenario::start(servers).await?;

    rabbit.control(&["stop_app"])?;
    let before = scenario.load().accepted();
    tokio::time::sleep(OUTAGE).await;
    ensure!(
        scenario.load().accepted() > before + 100,
        "orders are accepted while the broker is away"
    );
    rabbit.control(&["start_app"])?;
    scenario.wait_until_recovered("rabbitmqctl stop_app, start_app").await?;

    rabbit.crash()?;
    tokio::time::sleep(OUTAGE).await;
    rabbit.resume()?;
    scenario.wait_until_recovered("broker killed and restarted").await?;

    for _ in 0..5 {
        rabbit.control(&["close_all_connections", "fault test"])?;
        scenario.wait_until_recovered("close_all_connections").await?;
    }

    rabbit.control(&["delete_queue", &queue])?;
    scenario.wait_until_recovered("a stage's queue deleted").await?;

    rabbit.crash()?;
    rabbit.wipe()?;
    rabbit.resume()?;
    scenario.wait_until_recovered("the broker's data wiped").await?;

    // A consumer begins with 64 messages of the largest size, and goes up to 512 small ones less
    // those that it holds at that moment.
    eventually("all consumers with their prefetch", || async {
        let found = prefetch_of_every_consumer(&rabbit)?;
        Ok((found.len() == 8 && found.iter().all(|prefetch| *prefetch >= 448)).then_some(()))
    })
    .await?;
    scenario.end("the broker's faults").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn hosts_recover_from_a_killed_or_frozen_database() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut postgres = PrivatePostgres::start(folder.path())?;
    let scenario =
        FaultScenario::start(Servers::create_on(Some(postgres.url()), None).await?).await?;

    postgres.crash()?;
    let refused = eventually("a refusal", || async {
        let answer = scenario.clients[0]
            .post_for_headers("/orders", &serde_json::json!({ "user_id": "1", "items": ["Book"] }))
            .await?;
        Ok((answer.0 == StatusCode::SERVICE_UNAVAILABLE).then_some(answer))
    })
    .await?;
    assert!(refused.1.contains_key("retry-after"), "{refused:?}");
    tokio::time::sleep(OUTAGE).await;
    postgres.resume()?;
    scenario.wait_until_recovered("Postgres killed and restarted").await?;

    postgres.freeze()?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    postgres.thaw()?;
    scenario.wait_until_recovered("Postgres frozen for 30 s").await?;
    scenario.end("the database's faults").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn hosts_recover_from_a_cut_or_slow_network() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rabbit = PrivateRabbit::start(folder.path())?;
    let postgres = PrivatePostgres::start(folder.path())?;
    let (to_rabbit, to_postgres) =
        (Proxy::to(rabbit.port()).await?, Proxy::to(postgres.port()).await?);
    let mut servers = Servers::create_on(Some(postgres.url()), Some(rabbit.url())).await?;
    servers.host_urls =
        Some((postgres.url_at(to_postgres.port()), rabbit.url_at(to_rabbit.port())));
    let scenario = FaultScenario::start(servers).await?;
    for (name, proxy) in [("broker", &to_rabbit), ("database", &to_postgres)] {
        proxy.cut();
        tokio::time::sleep(Duration::from_secs(12)).await;
        proxy.pass();
        scenario.wait_until_recovered(&format!("network to the {name} silent for 12 s")).await?;
        proxy.reset();
        scenario.wait_until_recovered(&format!("connections to the {name} reset")).await?;
        proxy.slow(Duration::from_millis(50));
        // A transaction takes a dozen round trips: each sender gets a response every two seconds.
        scenario.load().wait_for_accepted(20).await?;
        proxy.pass();
        scenario.wait_until_recovered(&format!("network to the {name} slowed by 50 ms")).await?;
    }
    scenario.end("the network's faults").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn hosts_survive_the_kill_of_another_host() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let servers = env.servers.expect("servers");
    let mut scenario = FaultScenario::start(servers).await?;
    for kill in 0..crash_count() as usize {
        scenario.load().wait_for_accepted(rand::rng().random_range(1..150)).await?;
        let victim = kill % 2;
        let port: u16 =
            scenario.clients[victim].url.rsplit(':').next().context("a port")?.parse()?;
        scenario.hosts.remove(victim).kill()?;
        // The other host keeps working.
        scenario.load().wait_for_accepted(20).await?;
        let host = HostProcess::start_with(&scenario.env, port, None, HANDOVER[victim])?;
        host.wait_until_ready(&scenario.clients[victim], &scenario.env).await?;
        scenario.hosts.insert(victim, host);
    }
    scenario.end(&format!("one of two hosts killed {} times", crash_count())).await
}
