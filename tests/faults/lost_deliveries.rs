//! A delivery that no queue holds is found and run, also while the queue is never empty.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::support::guests::WatStage;
use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![owed_delivery_is_found_on_a_busy_queue];

/// Messages that wait at least, while the machine keeps up: half a second of work.
const WAITING: u64 = 10;

/// Posts whenever few messages wait, so that the queue is neither empty nor long, whatever the speed
/// of the machine.
async fn keep_busy(client: Client) {
    loop {
        let waiting = client.stage("busy").await.ok().and_then(|stage| stage["waiting"].as_u64());
        for _ in waiting.unwrap_or(WAITING)..WAITING {
            let _ = client.post("/events/busy.poke", &json!({})).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn owed_delivery_is_found_on_a_busy_queue(backend: Backend) -> Result<()> {
    let toml = "[stages.busy]\nrate_per_s = 20\nprefetch = 5\n";
    let env = TestEnv::empty_on(backend, toml).await?;
    std::fs::write(env.plugins().join("busy.wasm"), WatStage::named("busy").build()?)?;
    let host = env.start().await?;
    host.client.wait_until_serving("busy.wasm").await?;
    let _busy = AbortOnDropHandle::new(tokio::spawn(keep_busy(host.client.clone())));
    let settled = "SELECT count(*) FROM deliveries WHERE settled_ms IS NOT NULL AND event_seq = \
                   (SELECT min(event_seq) FROM deliveries)";
    let is_settled = || async { Ok((env.query_count(settled).await? == 1).then_some(())) };
    eventually("the first delivery", is_settled).await?;
    // As if the message of this delivery had been acknowledged without running.
    env.execute(
        "UPDATE deliveries SET status = 'open', settled_ms = NULL WHERE event_seq = \
         (SELECT min(event_seq) FROM deliveries)",
    )
    .await?;
    let lost = Instant::now();
    eventually("the lost delivery", is_settled).await?;
    let found = lost.elapsed();
    let stage = host.client.stage("busy").await?;
    assert!(stage["waiting"].as_u64() > Some(0), "the queue is empty: {stage}");
    ensure!(found < Duration::from_secs(10), "it was found after {found:?}");
    host.stop().await
}
