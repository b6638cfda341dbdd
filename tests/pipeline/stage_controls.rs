//! Operators pause, drain and resume stages, and limit their rate. None of this uses up an attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    paused_stage_holds_its_messages_across_a_restart,
    drained_stage_starts_no_new_message
];

async fn post(client: &Client, ids: std::ops::Range<usize>) -> Result<()> {
    for id in ids {
        let order =
            json!({ "order_id": format!("p-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    Ok(())
}

async fn paused_stage_holds_its_messages_across_a_restart(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let (status, said) =
        host.client.post("/stages/inventory/pause", &json!({ "reason": "stock-taking" })).await?;
    assert_eq!((status, said["state"].as_str()), (StatusCode::OK, Some("paused")), "{said}");
    assert_eq!(
        host.client.post("/stages/nobody/pause", &json!({})).await?.0,
        StatusCode::NOT_FOUND
    );
    post(&host.client, 0..5).await?;
    for id in 0..5 {
        host.client.wait_for_status(&format!("p-{id}"), "authorized").await?;
    }
    // The backlog counts what waits anywhere: in the queue, and in the lanes.
    assert_eq!(host.client.stage("inventory").await?["waiting"], 5);
    host.stop().await?;

    // The control survives a restart.
    let host = env.start().await?;
    let paused = host.client.stage("inventory").await?;
    assert_eq!(
        (paused["control"].as_str(), paused["reason"].as_str()),
        (Some("paused"), Some("stock-taking")),
        "{paused}"
    );
    assert_eq!(host.client.get("/ready").await?.1["held"], json!(["inventory"]));
    post(&host.client, 5..6).await?;
    host.client.wait_for_status("p-5", "authorized").await?;
    assert_eq!(
        env.query_count(
            "SELECT count(*) FROM deliveries WHERE stage = 'inventory' AND status <> 'open'"
        )
        .await?,
        0
    );
    host.client.post("/stages/inventory/resume", &json!({})).await?;
    for id in 0..6 {
        host.client.wait_for_status(&format!("p-{id}"), "ready").await?;
    }
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    host.stop().await
}

async fn drained_stage_starts_no_new_message(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    host.client.post("/stages/shipping/drain", &json!({})).await?;
    post(&host.client, 0..3).await?;
    for id in 0..3 {
        host.client.wait_for_status(&format!("p-{id}"), "reserved").await?;
    }
    let waits =
        || async { Ok((host.client.stage("shipping").await?["waiting"] == 3).then_some(())) };
    eventually("three messages to wait in the queue", waits).await?;
    host.client.post("/stages/shipping/resume", &json!({})).await?;
    for id in 0..3 {
        host.client.wait_for_status(&format!("p-{id}"), "ready").await?;
    }
    host.stop().await
}

/// Counts its calls.
struct Bank(Arc<AtomicUsize>);

#[async_trait]
impl NativeStage for Bank {
    fn describe(&self) -> Description {
        Description::new("bank", "1.0.0", "Asks a bank").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(vec![])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_is_enforced() -> Result<()> {
    let env = TestEnv::empty("[stages.bank]\nrate_per_s = 20\n")?;
    let calls = Arc::new(AtomicUsize::new(0));
    let bank = Bank(Arc::clone(&calls));
    let host = env.start_with(|builder| builder.stage(bank)).await?;
    post(&host.client, 0..30).await?;
    eventually("all calls", || async { Ok((calls.load(Ordering::SeqCst) == 30).then_some(())) })
        .await?;
    let first = "SELECT min(settled_ms) FROM deliveries WHERE stage = 'bank'";
    let last = "SELECT max(settled_ms) FROM deliveries WHERE stage = 'bank'";
    let spread = || async {
        Ok((env.query_count("SELECT count(*) FROM deliveries WHERE status = 'done'").await? == 30)
            .then_some(()))
    };
    eventually("all commits", spread).await?;
    let took_ms = env.query_count(last).await? - env.query_count(first).await?;
    assert!(took_ms >= 1_200, "30 messages at 20 a second took only {took_ms} ms");
    host.stop().await
}
