//! Plugins are added, replaced and removed under load. An invalid file never replaces a valid one.

use anyhow::Result;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    fifty_replacements_lose_and_duplicate_nothing,
    removed_stage_keeps_its_messages_until_it_returns
];

async fn post(client: &Client, from: usize, to: usize) -> Result<()> {
    for id in from..to {
        let order =
            json!({ "order_id": format!("r-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    Ok(())
}

async fn ready(env: &TestEnv) -> Result<i64> {
    env.query_count("SELECT count(*) FROM subjects WHERE status = 'ready'").await
}

async fn audited(env: &TestEnv) -> Result<(i64, i64)> {
    let events = env.query_count("SELECT count(*) FROM events WHERE type = 'audit.noted'").await?;
    let done = env
        .query_count("SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'")
        .await?;
    Ok((events, done))
}

async fn fifty_replacements_lose_and_duplicate_nothing(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    post(&host.client, 0, 50).await?;
    env.add_plugin("fifth", "fifth")?;
    eventually("the fifth stage", || async {
        Ok((host.client.plugin_of_stage("audit").await?["state"] == "serving").then_some(()))
    })
    .await?;

    // Posts orders until the last replacement, and at least 2,000.
    let stop = tokio_util::sync::CancellationToken::new();
    let load = tokio::spawn({
        let (client, stop) = (host.client.clone(), stop.clone());
        async move {
            let mut posted = 0;
            while posted < 2_000 || !stop.is_cancelled() {
                post(&client, 1_000 + posted, 1_000 + posted + 1).await?;
                posted += 1;
            }
            anyhow::Ok(posted)
        }
    });
    for round in 0..50 {
        let variant = if round % 2 == 0 { "fifth-next" } else { "fifth" };
        let before = host.client.plugin_of_stage("audit").await?["digest"].clone();
        env.add_plugin(variant, "fifth")?;
        let swapped = || async {
            Ok((host.client.plugin_of_stage("audit").await?["digest"] != before).then_some(()))
        };
        eventually("the swap", swapped).await?;
    }
    stop.cancel();
    let posted = load.await??;
    // Orders posted before the stage joined may or may not have reached it; those after it did,
    // each once.
    let expected = i64::try_from(posted)?;
    let done = eventually("every audit, and as many events", || async {
        let (events, done) = audited(&env).await?;
        Ok((events == done && done >= expected && ready(&env).await? == expected + 50)
            .then_some(done))
    })
    .await?;
    assert!((expected..=expected + 50).contains(&done), "{done} audits of {posted} orders");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_file_is_reported_and_the_old_version_keeps_serving() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start().await?;
    let before = host.client.plugin_of_stage("payment").await?["digest"].clone();
    std::fs::write(env.plugins().join("payment.wasm"), b"this is not WebAssembly")?;
    let shown = eventually("the error", || async {
        let plugin = host.client.plugin_of_stage("payment").await?;
        Ok(plugin["last_error"].is_string().then_some(plugin))
    })
    .await?;
    assert_eq!((&shown["state"], &shown["digest"]), (&Value::from("serving"), &before));
    post(&host.client, 0, 1).await?;
    host.client.wait_for_status("r-0", "ready").await?;
    host.stop().await
}

async fn removed_stage_keeps_its_messages_until_it_returns(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    std::fs::remove_file(env.plugins().join("shipping.wasm"))?;
    eventually("the removal", || async {
        Ok((host.client.plugin_of_stage("shipping").await?["state"] == "removed").then_some(()))
    })
    .await?;
    post(&host.client, 0, 5).await?;
    for id in 0..5 {
        host.client.wait_for_status(&format!("r-{id}"), "reserved").await?;
    }
    env.add_plugin("shipping", "shipping")?;
    for id in 0..5 {
        host.client.wait_for_status(&format!("r-{id}"), "ready").await?;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_written_file_waits_until_it_is_complete() -> Result<()> {
    use std::io::Write as _;
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start().await?;
    let bytes = std::fs::read(crate::support::harness::guest("fifth")?)?;
    let mut file = std::fs::File::create(env.plugins().join("fifth.wasm"))?;
    for part in bytes.chunks(bytes.len() / 5 + 1) {
        file.write_all(part)?;
        file.sync_all()?;
        // Lets the watcher see the incomplete file: another stage's load proves that it had the
        // opportunity.
        host.client.plugin_of_stage("payment").await?;
    }
    drop(file);
    eventually("the fifth stage", || async {
        Ok((host.client.plugin_of_stage("audit").await?["state"] == "serving").then_some(()))
    })
    .await?;
    host.stop().await
}
