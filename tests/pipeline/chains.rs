//! Chains of events that do not end by themselves: a limit ends them, or an operator does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, Failure, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    runaway_chain_ends_at_its_limit_and_orders_pass,
    stopped_chain_ends_on_every_host_and_stays_stopped,
    dead_letters_of_dead_letters_end,
    skipped_deliveries_do_not_wait_for_the_rate_limit,
    limit_holds_across_restarts
];

/// Emits several events of the type that it consumes.
#[derive(Clone)]
struct Rabbit {
    young: usize,
    delay_ms: u32,
    calls: Arc<AtomicUsize>,
}

impl Rabbit {
    fn emitting(young: usize) -> Self {
        Self { young, delay_ms: 0, calls: Arc::default() }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl NativeStage for Rabbit {
    fn describe(&self) -> Description {
        Description::new("rabbit", "1.0.0", "Multiplies")
            .consumes(["rabbit.hop"])
            .emits(["rabbit.hop"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut hop = Emitted::json("rabbit.hop", &json!({}));
        hop.delay_ms = self.delay_ms;
        Ok(vec![hop; self.young])
    }
}

const EMITTED: &str = "SELECT count(*) FROM events WHERE type = 'rabbit.hop' AND stage = 'rabbit'";
const OPEN: &str = "SELECT count(*) FROM deliveries WHERE status = 'open'";
const LIMITED: &str = "SELECT count(*) FROM dead_letters WHERE code = 'chain-limit'";

/// Sends the first event of a chain; the chain's id.
async fn begin(client: &Client) -> Result<String> {
    let (status, sent) = client.post("/events/rabbit.hop", &json!({})).await?;
    ensure!(status.is_success(), "{sent}");
    Ok(sent["id"].as_str().context("an id")?.to_owned())
}

/// Waits until every delivery is settled.
async fn quiet(env: &TestEnv) -> Result<()> {
    eventually("all deliveries to be settled", || async {
        Ok((env.query_count(OPEN).await? == 0).then_some(()))
    })
    .await
}

/// The chain in the list of a host, or null.
async fn chain(client: &Client, id: &str) -> Result<Value> {
    let (_, chains) = client.get("/chains").await?;
    let chains = chains["items"].as_array().context("items")?;
    Ok(chains.iter().find(|chain| chain["correlation_id"] == id).cloned().unwrap_or_default())
}

async fn runaway_chain_ends_at_its_limit_and_orders_pass(backend: Backend) -> Result<()> {
    let toml = format!("events.chain_events_max = 500\n{AMPLE_STOCK}");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let rabbit = Rabbit::emitting(7);
    let host = env.start_with(|builder| builder.stage(rabbit.clone())).await?;
    let id = begin(&host.client).await?;
    let order = json!({ "order_id": "c-1", "user_id": "1", "items": ["Book"], "total": 1 });
    ensure!(host.client.post("/orders", &order).await?.0.is_success());
    host.client.wait_for_status("c-1", "ready").await?;
    quiet(&env).await?;

    let emitted = env.query_count(EMITTED).await?;
    ensure!((494..=500).contains(&emitted), "{emitted} events");
    ensure!(rabbit.calls() as i64 == emitted + 1, "each event ran once");
    let limited = env.query_count(LIMITED).await?;
    ensure!(limited == emitted + 1 - emitted / 7, "{limited} dead letters of {emitted} events");
    let known = chain(&host.client, &id).await?;
    // The announcements of dead letters are events of the chain, up to the limit.
    ensure!(known["state"] == "running" && known["events"] == 501, "{known}");
    let metrics = host.client.text("/metrics").await?;
    let counter = format!("postrider_chain_limit_refusals_total {limited}");
    ensure!(metrics.contains(&counter), "{metrics}");

    // An operator decides that the chain may go on.
    let (status, resumed) = host.client.post(&format!("/chains/{id}/resume"), &json!({})).await?;
    ensure!(status == StatusCode::OK && resumed["events"] == 0, "{resumed}");
    let replay = json!({ "filter": { "code": "chain-limit" }, "rate_per_second": 10_000 });
    ensure!(host.client.post("/dead-letters/replay", &replay).await?.0.is_success());
    eventually("the chain to reach its limit again", || async {
        Ok((env.query_count(EMITTED).await? >= 2 * emitted - 7).then_some(()))
    })
    .await?;
    quiet(&env).await?;
    let emitted = env.query_count(EMITTED).await?;
    ensure!(emitted <= 1_000, "{emitted} events");
    host.stop().await
}

async fn start_two(env: &TestEnv, backend: Backend, stage: &Rabbit) -> Result<Vec<RunningHost>> {
    let mut hosts = vec![env.start_with(|builder| builder.stage(stage.clone())).await?];
    // The embedded back end has one host.
    if backend == Backend::Servers {
        hosts.push(env.start_with(|builder| builder.stage(stage.clone())).await?);
    }
    Ok(hosts)
}

async fn stopped_chain_ends_on_every_host_and_stays_stopped(backend: Backend) -> Result<()> {
    // Each chain goes on for ever.
    let env = TestEnv::empty_on(
        backend,
        "events.hops_max = 1000000\nevents.chain_events_max = 1000000\n",
    )
    .await?;
    let rabbit = Rabbit { delay_ms: 1, ..Rabbit::emitting(1) };
    let hosts = start_two(&env, backend, &rabbit).await?;
    let client = &hosts[0].client;
    let (stopped, other) = (begin(client).await?, begin(client).await?);
    eventually("both chains to run", || async { Ok((rabbit.calls() > 50).then_some(())) }).await?;
    let (status, known) =
        client.post(&format!("/chains/{stopped}/stop"), &json!({ "reason": "a loop" })).await?;
    ensure!(status == StatusCode::OK && known["state"] == "stopped", "{known}");
    for host in &hosts {
        eventually("every host to know", || async {
            let known = chain(&host.client, &stopped).await?;
            Ok((known["state"] == "stopped" && known["reason"] == "a loop").then_some(()))
        })
        .await?;
    }
    let open = async || {
        let open = "SELECT e.correlation_id FROM deliveries d JOIN events e ON e.seq = d.event_seq \
                    WHERE d.status = 'open'";
        env.query_texts(open).await
    };
    eventually("the stopped chain to end", || async {
        Ok((!open().await?.contains(&stopped)).then_some(()))
    })
    .await?;
    ensure!(
        env.query_count("SELECT count(*) FROM deliveries WHERE status = 'skipped'").await? == 1
    );
    eventually("the other chain to be listed", || async {
        Ok((chain(client, &other).await?["state"] == "running").then_some(()))
    })
    .await?;
    let calls = rabbit.calls();
    eventually("the other chain to run", || async { Ok((rabbit.calls() > calls).then_some(())) })
        .await?;

    // One that no host knows, and one that is not the first of its chain.
    let (status, _) = client.post("/chains/nobody/stop", &json!({})).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status}");
    let middle = "SELECT id FROM events WHERE stage = 'rabbit' LIMIT 1";
    let middle = env.query_texts(middle).await?.pop().context("an event of the stage")?;
    let (status, problem) = client.post(&format!("/chains/{middle}/stop"), &json!({})).await?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(status == StatusCode::NOT_FOUND && detail.contains("part of the chain"), "{problem}");

    for host in hosts {
        host.stop().await?;
    }
    let hosts = start_two(&env, backend, &rabbit).await?;
    let client = &hosts[0].client;
    let known = chain(client, &stopped).await?;
    ensure!(known["state"] == "stopped", "after a restart: {known}");
    let url = &client.url;
    let (code, listed, _) = postrider(&["events", "chains", "--json", "--url", url]).await?;
    ensure!(code == 0 && listed.contains(&stopped), "{listed}");
    let (code, said, error) = postrider(&["events", "stop", &other, "--url", url]).await?;
    ensure!(code == 0 && said.contains(&other), "{said}{error}");
    quiet(&env).await?;
    let (code, said, error) = postrider(&["events", "resume", &stopped, "--url", url]).await?;
    ensure!(code == 0 && said.contains("runs again"), "{said}{error}");
    let known = chain(client, &stopped).await?;
    // It has no events yet, so it may not be listed.
    ensure!(known["state"] != "stopped" && known["reason"].is_null(), "{known}");
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

/// Fails on every dead letter, its own included.
struct Mourner;

#[async_trait]
impl NativeStage for Mourner {
    fn describe(&self) -> Description {
        Description::new("mourner", "1.0.0", "Fails").consumes(["postrider.dead-lettered", "a.b"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Err(Failure::reject("no", "never").into())
    }
}

async fn dead_letters_of_dead_letters_end(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "events.hops_max = 5\n").await?;
    let host = env.start_with(|builder| builder.stage(Mourner)).await?;
    ensure!(host.client.post("/events/a.b", &json!({})).await?.0.is_success());
    quiet(&env).await?;
    // The last one at the limit is announced, and the stage fails on that, too.
    ensure!(env.query_count("SELECT count(*) FROM dead_letters").await? == 7);
    ensure!(env.query_count("SELECT count(*) FROM events").await? == 8, "each is in the log");
    host.stop().await
}

async fn skipped_deliveries_do_not_wait_for_the_rate_limit(backend: Backend) -> Result<()> {
    let toml = "events.chain_events_max = 1000000\nstages.rabbit.rate_per_s = 1\n";
    let env = TestEnv::empty_on(backend, toml).await?;
    let rabbit = Rabbit::emitting(90);
    let host = env.start_with(|builder| builder.stage(rabbit.clone())).await?;
    let id = begin(&host.client).await?;
    eventually("the chain to grow", || async {
        Ok((env.query_count(OPEN).await? >= 90).then_some(()))
    })
    .await?;
    let began = Instant::now();
    ensure!(host.client.post(&format!("/chains/{id}/stop"), &json!({})).await?.0.is_success());
    quiet(&env).await?;
    ensure!(began.elapsed() < Duration::from_secs(45), "it took {:?}", began.elapsed());
    host.stop().await
}

async fn limit_holds_across_restarts(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "events.chain_events_max = 200\n").await?;
    let rabbit = Rabbit::emitting(3);
    let host = env.start_with(|builder| builder.stage(rabbit.clone())).await?;
    begin(&host.client).await?;
    quiet(&env).await?;
    let emitted = env.query_count(EMITTED).await?;
    let recorded = "SELECT count(*) FROM chains WHERE events = 201";
    eventually("the chain to be recorded", || async {
        Ok((env.query_count(recorded).await? == 1).then_some(()))
    })
    .await?;
    host.stop().await?;
    let host = env.start_with(|builder| builder.stage(rabbit.clone())).await?;
    let limited = env.query_count(LIMITED).await?;
    let replay = json!({ "filter": { "all": true }, "rate_per_second": 10_000 });
    ensure!(host.client.post("/dead-letters/replay", &replay).await?.0.is_success());
    eventually("the replays to fail again", || async {
        Ok((env.query_count(LIMITED).await? == 2 * limited).then_some(()))
    })
    .await?;
    ensure!(env.query_count(EMITTED).await? == emitted, "the limit was forgotten");
    host.stop().await
}
