//! Plugins come, change and go while orders flow; a bad file never replaces a good one.

use anyhow::Result;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, Site, eventually, on_both_back_ends};
use crate::support::load::PLENTY;

on_both_back_ends![
    a_fifth_stage_joins_and_fifty_replacements_lose_and_double_nothing,
    a_removed_stage_keeps_its_messages_until_it_returns
];

async fn post(client: &Client, from: usize, to: usize) -> Result<()> {
    for id in from..to {
        let order =
            json!({ "order_id": format!("r-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    Ok(())
}

async fn ready(site: &Site) -> Result<i64> {
    site.count("SELECT count(*) FROM orders WHERE status = 'ready'").await
}

async fn audited(site: &Site) -> Result<(i64, i64)> {
    let events = site.count("SELECT count(*) FROM events WHERE type = 'audit.noted'").await?;
    let done = site
        .count("SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'")
        .await?;
    Ok((events, done))
}

async fn a_fifth_stage_joins_and_fifty_replacements_lose_and_double_nothing(
    backend: Backend,
) -> Result<()> {
    let site = Site::shipped_on(backend, PLENTY).await?;
    let host = site.start().await?;
    post(&host.client, 0, 50).await?;
    site.add("fifth", "fifth")?;
    eventually("the fifth stage", || async {
        Ok((host.client.plugin_of("audit").await?["state"] == "serving").then_some(()))
    })
    .await?;

    // Orders flow until the last replacement is over, and at least 2,000 of them.
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
        let before = host.client.plugin_of("audit").await?["digest"].clone();
        site.add(variant, "fifth")?;
        let swapped = || async {
            Ok((host.client.plugin_of("audit").await?["digest"] != before).then_some(()))
        };
        eventually("the swap", swapped).await?;
    }
    stop.cancel();
    let posted = load.await??;
    // Orders posted before the stage joined may or may not have reached it; those after it did,
    // each once.
    let expected = i64::try_from(posted)?;
    let done = eventually("every audit, and as many events", || async {
        let (events, done) = audited(&site).await?;
        Ok((events == done && done >= expected && ready(&site).await? == expected + 50)
            .then_some(done))
    })
    .await?;
    assert!((expected..=expected + 50).contains(&done), "{done} audits of {posted} orders");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_is_shown_and_the_old_version_keeps_serving() -> Result<()> {
    let site = Site::shipped(PLENTY)?;
    let host = site.start().await?;
    let before = host.client.plugin_of("payment").await?["digest"].clone();
    std::fs::write(site.plugins().join("payment.wasm"), b"this is not WebAssembly")?;
    let shown = eventually("the error", || async {
        let plugin = host.client.plugin_of("payment").await?;
        Ok(plugin["last_error"].is_string().then_some(plugin))
    })
    .await?;
    assert_eq!((&shown["state"], &shown["digest"]), (&Value::from("serving"), &before));
    post(&host.client, 0, 1).await?;
    host.client.order_in("r-0", "ready").await?;
    host.stop().await
}

async fn a_removed_stage_keeps_its_messages_until_it_returns(backend: Backend) -> Result<()> {
    let site = Site::shipped_on(backend, PLENTY).await?;
    let host = site.start().await?;
    std::fs::remove_file(site.plugins().join("shipping.wasm"))?;
    eventually("the removal", || async {
        Ok((host.client.plugin_of("shipping").await?["state"] == "removed").then_some(()))
    })
    .await?;
    post(&host.client, 0, 5).await?;
    for id in 0..5 {
        host.client.order_in(&format!("r-{id}"), "reserved").await?;
    }
    site.add("shipping", "shipping")?;
    for id in 0..5 {
        host.client.order_in(&format!("r-{id}"), "ready").await?;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_file_waits_until_it_is_whole() -> Result<()> {
    use std::io::Write as _;
    let site = Site::shipped(PLENTY)?;
    let host = site.start().await?;
    let bytes = std::fs::read(crate::support::harness::guest("fifth")?)?;
    let mut file = std::fs::File::create(site.plugins().join("fifth.wasm"))?;
    for part in bytes.chunks(bytes.len() / 5 + 1) {
        file.write_all(part)?;
        file.sync_all()?;
        // Let the watcher look at the half file: another stage's answer proves that it had its
        // turn.
        host.client.plugin_of("payment").await?;
    }
    drop(file);
    eventually("the fifth stage", || async {
        Ok((host.client.plugin_of("audit").await?["state"] == "serving").then_some(()))
    })
    .await?;
    host.stop().await
}
