//! Retention: once everything is finished and old enough, only tombstones are left, whatever way it
//! came in.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use postrider::{Clock as _, ManualClock, SystemClock};
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![only_tombstones_are_left_of_what_is_finished];

/// Rows that belong to an order or an event, controls of running stages, and stopped chains.
const LEFT: &str = "SELECT (SELECT count(*) FROM subjects WHERE status <> 'pruned') + (SELECT count(*) \
                    FROM events) + (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM \
                    attempts) + (SELECT count(*) FROM recordings) + (SELECT count(*) FROM \
                    dead_letters) + (SELECT count(*) FROM outbox) + (SELECT count(*) FROM \
                    stage_controls) + (SELECT count(*) FROM chains) + (SELECT count(*) FROM state WHERE key LIKE 'order/%')";

async fn only_tombstones_are_left_of_what_is_finished(backend: Backend) -> Result<()> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let toml = "recording.enabled = true\nretention.interval_ms = 20\n\
                [stages.payment.retry]\nmax_attempts = 1\n\
                [stages.inventory.settings]\ndefault_stock = \"1000\"\n";
    let env = TestEnv::shipped_on(backend, toml).await?;
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    let client = &host.client;
    for (id, fails) in [("ready", false), ("cancelled", false), ("failed", true)] {
        let order =
            json!({ "order_id": id, "user_id": "1", "items": ["Book"], "force_fail": fails });
        ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    client.wait_for_status("ready", "ready").await?;
    client.wait_for_status("failed", "failed").await?;
    client.wait_for_status("cancelled", "ready").await?;
    ensure!(client.post("/orders/cancelled/cancel", &json!({})).await?.0.is_success());
    client.wait_for_status("cancelled", "cancelled").await?;
    let (_, dead_letters) = client.get("/dead-letters").await?;
    let path = format!("/dead-letters/{}/discard", dead_letters["items"][0]["id"]);
    ensure!(client.post(&path, &json!({ "reason": "a test" })).await?.0.is_success());
    ensure!(client.post("/products", &json!({ "sku": "Lamp", "stock": 3 })).await?.0.is_success());
    // An event of another program, dated long ago.
    let event: Value = json!({ "specversion": "1.0", "id": "e1", "source": "/warehouse",
        "type": "shelf.dusted", "time": "1999-01-01T00:00:00Z", "data": {} });
    let kind = "application/cloudevents+json";
    ensure!(client.post_raw("/events", kind, event.to_string()).await?.0.is_success());
    for verb in ["pause", "resume"] {
        ensure!(client.post(&format!("/stages/shipping/{verb}"), &json!({})).await?.0.is_success());
    }
    let (_, chains) = client.get("/chains").await?;
    let path = format!(
        "/chains/{}/stop",
        chains["items"][0]["correlation_id"].as_str().context("a chain")?
    );
    ensure!(client.post(&path, &json!({ "reason": "a test" })).await?.0.is_success());
    for table in [
        "SELECT count(*) FROM attempts",
        "SELECT count(*) FROM recordings",
        "SELECT count(*) FROM dead_letters",
        "SELECT count(*) FROM stage_controls",
        "SELECT count(*) FROM chains",
        "SELECT count(*) FROM events WHERE id = 'e1'",
    ] {
        ensure!(env.query_count(table).await? > 0, "{table}");
    }
    eventually("all deliveries to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        Ok((open == 0).then_some(()))
    })
    .await?;

    // A host notes the size of a chain after its events, perhaps after the first step of the clock.
    eventually("everything to be deleted", || async {
        clock.advance(91 * DAY_MS);
        Ok((env.query_count(LEFT).await? == 0).then_some(()))
    })
    .await?;
    assert_eq!(env.query_count("SELECT count(*) FROM subjects").await?, 3, "tombstones");
    assert_eq!(env.query_count("SELECT count(*) FROM plugin_loads").await?, 4, "the last loads");
    host.stop().await
}
