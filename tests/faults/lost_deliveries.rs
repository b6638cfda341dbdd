//! A delivery that no queue holds is found and run, also while the queue is never empty.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};
use crate::support::load::{AMPLE_STOCK, Load};

on_both_back_ends![owed_delivery_is_found_on_a_busy_queue];

async fn owed_delivery_is_found_on_a_busy_queue(backend: Backend) -> Result<()> {
    // Orders are posted a little faster than the stage may run, so messages always wait.
    let toml = format!("{AMPLE_STOCK}[stages.notification]\nrate_per_s = 20\nprefetch = 10\n");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let host = env.start().await?;
    let load = Load::start(std::slice::from_ref(&host.client), 1, Duration::from_millis(42));
    load.wait_for_accepted(40).await?;
    let settled = "SELECT count(*) FROM deliveries WHERE stage = 'notification' AND \
                   settled_ms IS NOT NULL AND event_seq = (SELECT min(event_seq) FROM deliveries \
                   WHERE stage = 'notification')";
    let is_settled = || async { Ok((env.query_count(settled).await? == 1).then_some(())) };
    eventually("the first notification", is_settled).await?;
    // As if the message of this delivery had been acknowledged without running.
    env.execute(
        "UPDATE deliveries SET status = 'open', settled_ms = NULL WHERE stage = 'notification' AND \
         event_seq = (SELECT min(event_seq) FROM deliveries WHERE stage = 'notification')",
    )
    .await?;
    let lost = Instant::now();
    eventually("the lost delivery", is_settled).await?;
    let found = lost.elapsed();
    assert!(host.client.stage("notification").await?["waiting"].as_u64() > Some(0));
    ensure!(found < Duration::from_secs(10), "it was found after {found:?}");
    drop(load);
    host.stop().await
}
