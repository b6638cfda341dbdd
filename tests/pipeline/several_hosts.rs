//! Several hosts on one store and broker: single-active stages, different plugins, and stages that
//! no host runs for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{Connection, ConnectionProperties};
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::amqp_url;

on_both_back_ends![stage_whose_plugin_was_missing_at_startup_receives_its_backlog];

async fn post(client: &Client, ids: std::ops::Range<usize>) -> Result<()> {
    for id in ids {
        let order =
            json!({ "order_id": format!("h-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    Ok(())
}

/// Whether the host of this client consumes the stage's queue.
async fn consumption(client: &Client, name: &str) -> Result<String> {
    Ok(client.stage_here(name).await?["consumption"].as_str().unwrap_or("unknown").to_owned())
}

/// Waits until one host consumes the stage and the other is on standby. Returns the consuming host
/// first.
async fn one_of(hosts: [RunningHost; 2], name: &str) -> Result<[RunningHost; 2]> {
    let settled = || async {
        let states = [
            consumption(&hosts[0].client, name).await?,
            consumption(&hosts[1].client, name).await?,
        ];
        Ok((states.contains(&"consuming".to_owned()) && states.contains(&"standby".to_owned()))
            .then_some(states))
    };
    let states = eventually("one host to consume and one to stand by", settled).await?;
    let [one, other] = hosts;
    Ok(if states[0] == "consuming" { [one, other] } else { [other, one] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_active_stage_runs_on_one_host_and_fails_over() -> Result<()> {
    let env = TestEnv::shipped_on(
        Backend::Servers,
        &format!("{AMPLE_STOCK}[stages.shipping]\nsingle_active = true\n"),
    )
    .await?;
    let [active, standby] = one_of([env.start().await?, env.start().await?], "shipping").await?;
    post(&standby.client, 0..20).await?;
    for id in 0..20 {
        standby.client.wait_for_status(&format!("h-{id}"), "ready").await?;
    }
    assert_eq!(consumption(&standby.client, "shipping").await?, "standby");
    assert_eq!(
        standby.client.get("/ready").await?.0,
        StatusCode::OK,
        "a host that stands by is ready"
    );
    // A rolling restart: the other host processes the orders posted while the active host stops.
    let load = tokio::spawn({
        let client = standby.client.clone();
        async move { post(&client, 20..120).await }
    });
    active.stop().await?;
    load.await??;
    for id in 20..120 {
        standby.client.wait_for_status(&format!("h-{id}"), "ready").await?;
    }
    assert_eq!(consumption(&standby.client, "shipping").await?, "consuming");
    assert_eq!(
        env.query_count("SELECT count(*) FROM events WHERE type = 'shipping.ready'").await?,
        120
    );
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    standby.stop().await
}

/// Records each order; hangs while `hangs` is set.
#[derive(Clone, Default)]
struct Watcher {
    calls: Arc<AtomicUsize>,
    hangs: Arc<AtomicBool>,
}

#[async_trait]
impl NativeStage for Watcher {
    fn describe(&self) -> Description {
        Description::new("watcher", "1.0.0", "Watches").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(vec![])
    }
}

const WATCHED: &str = "SELECT count(*) FROM deliveries WHERE stage = 'watcher' AND status = 'done'";

async fn watched(env: &TestEnv, count: i64) -> Result<()> {
    eventually(&format!("{count} watched orders"), || async {
        Ok((env.query_count(WATCHED).await? == count).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_different_plugins_keep_each_others_bindings() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let watching = env.start_with(|builder| builder.stage(Watcher::default())).await?;
    let plain = env.start().await?;
    post(&plain.client, 0..20).await?;
    watched(&env, 20).await?;
    // While no host runs the stage, its events wait.
    watching.stop().await?;
    post(&plain.client, 20..40).await?;
    for id in 20..40 {
        plain.client.wait_for_status(&format!("h-{id}"), "ready").await?;
    }
    assert_eq!(
        env.query_count(
            "SELECT count(*) FROM deliveries WHERE stage = 'watcher' AND status = 'open'"
        )
        .await?,
        20
    );
    let watching = env.start_with(|builder| builder.stage(Watcher::default())).await?;
    watched(&env, 40).await?;
    watching.stop().await?;
    plain.stop().await
}

async fn stage_whose_plugin_was_missing_at_startup_receives_its_backlog(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start_with(|builder| builder.stage(Watcher::default())).await?;
    host.stop().await?;
    let host = env.start().await?;
    post(&host.client, 0..5).await?;
    for id in 0..5 {
        host.client.wait_for_status(&format!("h-{id}"), "ready").await?;
    }
    host.stop().await?;
    let host = env.start_with(|builder| builder.stage(Watcher::default())).await?;
    watched(&env, 5).await?;
    assert_eq!(
        host.client.delete("/stages/watcher").await?.0,
        StatusCode::CONFLICT,
        "this host runs it"
    );
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_stage_can_be_deleted() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start_with(|builder| builder.stage(Watcher::default())).await?;
    host.stop().await?;
    let host = env.start().await?;
    post(&host.client, 0..1).await?;
    assert_eq!(host.client.delete("/stages/nobody").await?.0, StatusCode::NOT_FOUND);
    assert_eq!(
        host.client.delete("/stages/watcher").await?,
        (StatusCode::OK, json!({ "stage": "watcher", "state": "deleted", "skipped": 1 }))
    );
    assert_eq!(host.client.delete("/stages/watcher").await?.0, StatusCode::NOT_FOUND);
    post(&host.client, 1..2).await?;
    for id in 0..2 {
        host.client.wait_for_status(&format!("h-{id}"), "ready").await?;
    }
    assert_eq!(
        env.query_count("SELECT count(*) FROM deliveries WHERE stage = 'watcher'").await?,
        1,
        "the order from before"
    );
    host.stop().await
}

/// Receives and rejects a message until it exceeds the broker's delivery limit, as if several hosts
/// in turn had crashed on it.
async fn exceed_delivery_limit(queue: &str) -> Result<()> {
    /// One more than `x-delivery-limit`.
    const TIMES: usize = 101;
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for _ in 0..TIMES {
        let received =
            || async { Ok(channel.basic_get(queue.into(), BasicGetOptions::default()).await?) };
        let message = eventually("the message", received).await?;
        channel
            .basic_nack(message.delivery_tag, BasicNackOptions { requeue: true, multiple: false })
            .await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_beyond_the_delivery_limit_runs_isolated_once() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, "shutdown.grace_ms = 200\n").await?;
    let queue = env.servers.as_ref().context("servers")?.queue("watcher");
    let watcher = Watcher::default();
    let host = env.start_with(|builder| builder.stage(watcher.clone())).await?;
    host.client.post("/stages/watcher/drain", &json!({})).await?;
    eventually("the drain", || async {
        Ok((consumption(&host.client, "watcher").await? == "drained").then_some(()))
    })
    .await?;
    // A harmless message: its isolated run settles it.
    post(&host.client, 0..1).await?;
    exceed_delivery_limit(&queue).await?;
    watched(&env, 1).await?;
    let (_, order) = host.client.get("/orders/h-0").await?;
    let delivery = order["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["stage"] == "watcher")
        .cloned()
        .unwrap_or_default();
    assert_eq!(
        (&delivery["attempt"], &delivery["failures"][0]["code"]),
        (&json!(2), &json!("delivery-limit")),
        "{delivery}"
    );
    let name = &host.client.get("/hosts").await?.1["answered_by"];
    assert_eq!(&delivery["host"], name, "the isolated run");
    assert_eq!(delivery["failures"][0]["host"], json!(null), "whichever hosts took it: {delivery}");

    // A message whose isolated run crashes the host: it is dead-lettered after the restart.
    watcher.hangs.store(true, Ordering::SeqCst);
    post(&host.client, 1..2).await?;
    exceed_delivery_limit(&queue).await?;
    eventually("the isolated run", || async {
        Ok((watcher.calls.load(Ordering::SeqCst) == 2).then_some(()))
    })
    .await?;
    host.stop().await?;
    let host = env.start_with(|builder| builder.stage(watcher.clone())).await?;
    let dead_letter = eventually("the dead letter", || async {
        let (_, dead_letters) = host.client.get("/dead-letters?stage=watcher").await?;
        Ok(dead_letters["items"].get(0).cloned())
    })
    .await?;
    assert_eq!(
        (&dead_letter["code"], watcher.calls.load(Ordering::SeqCst)),
        (&json!("delivery-limit"), 2),
        "{dead_letter}"
    );
    host.stop().await
}
