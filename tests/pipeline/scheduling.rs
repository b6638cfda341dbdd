//! Events and orders with a time or a delay: they wait until they are due, across a restart, and
//! their expiry counts from then.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use postrider::{
    Clock as _, Description, Emitted, Event, ManualClock, NativeContext, NativeError, NativeStage,
    SystemClock,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![scheduled_event_survives_a_restart_and_expires_after_its_due_time];

async fn scheduled_event_survives_a_restart_and_expires_after_its_due_time(
    backend: Backend,
) -> Result<()> {
    // Counted from the request, it would expire before it is due. What expires is decided by the
    // test's clock, so that nothing else does, however slow the machine is.
    let config = "events.expiry_ms = 1500\ningress.allow = [\"product.stocked\"]\n";
    let env = TestEnv::shipped_on(backend, &format!("{config}{AMPLE_STOCK}")).await?;
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    let order = json!({ "order_id": "later", "user_id": "1", "items": ["Book"], "total": 1 });
    let (status, _) = host.client.post_with_header("/orders", &order, ("delay", "2500ms")).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    let file = env.folder.path().join("stock.json");
    std::fs::write(&file, json!({ "sku": "Lamp", "name": null, "quantity": 3 }).to_string())?;
    let (url, file) = (&host.client.url, file.display().to_string());
    let (code, sent, told) = postrider(&[
        "events",
        "send",
        "product.stocked",
        "--data",
        &file,
        "--delay",
        "2s",
        "--json",
        "--url",
        url,
    ])
    .await?;
    assert_eq!(code, 0, "{told}");
    let sent: Value = serde_json::from_str(&sent)?;
    let stock_due_ms = sent["due_at_ms"].as_u64().context("a time")?;
    let (_, events) = host.client.get("/orders/later/events").await?;
    let order_due_ms =
        events["items"][0]["due_at_ms"].as_u64().context("the log shows when it falls due")?;
    assert_eq!((stock_due_ms, order_due_ms), (clock.now_ms() + 2_000, clock.now_ms() + 2_500));
    host.stop().await?;
    clock.advance(2_500);
    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    let done = host.client.wait_for_status("later", "ready").await?;
    // Dated by the clock of the store, which also decides what is due.
    let ran_ms = done["timeline"][0]["settled_at_ms"].as_u64().context("a time")?;
    assert!(ran_ms >= order_due_ms, "it ran {} ms before it was due", order_due_ms - ran_ms);
    eventually("the stock", || async {
        Ok((host.client.get("/products/Lamp").await?.0 == StatusCode::OK).then_some(()))
    })
    .await?;
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    for (header, value) in [
        ("delay", "31d"),
        ("delay", "soon"),
        ("deliver-at", "2999-01-01T00:00:00Z"),
        ("deliver-at", "tomorrow"),
    ] {
        let (status, problem) =
            host.client.post_with_header("/orders", &order, (header, value)).await?;
        assert_eq!(
            (status, &problem["type"]),
            (StatusCode::BAD_REQUEST, &json!("/problems/invalid-header")),
            "{header}: {value}"
        );
    }
    host.stop().await
}

/// Processes one message per permit.
#[derive(Clone)]
struct Slow(Arc<Semaphore>);

#[async_trait]
impl NativeStage for Slow {
    fn describe(&self) -> Description {
        Description::new("slow", "1.0.0", "Takes its time").consumes(["desk.note"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.0.acquire().await.expect("never closed").forget();
        Ok(vec![])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_event_is_dead_lettered_as_expired() -> Result<()> {
    const NOTE: &str = "/events/desk.note";
    let env = TestEnv::empty("[stages.slow]\nbatch_max = 1\n")?;
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let permits = Arc::new(Semaphore::new(0));
    let host = env
        .start_with(|builder| {
            builder.clock(Arc::clone(&clock) as _).stage(Slow(Arc::clone(&permits)))
        })
        .await?;
    let day_ms = 24 * 60 * 60 * 1_000;
    host.client.post_with_header(NOTE, &json!({}), ("ce-id", "at-once")).await?;
    host.client.post_with_header(NOTE, &json!({}), ("ce-id", "behind-it")).await?;
    let later = json!({ "specversion": "1.0", "id": "later", "source": "/desk", "type": "desk.note", "deliverat": "2023-11-15T22:13:20Z" });
    assert_eq!(
        host.client.post_raw("/events", "application/cloudevents+json", later.to_string()).await?.0,
        StatusCode::ACCEPTED
    );
    let waiting = async || -> Result<i64> { env.query_count("SELECT count(*) FROM outbox").await };
    eventually("the two to be sent", || async { Ok((waiting().await? == 1).then_some(())) })
        .await?;
    // A day later (the default expiry): the first runs, the second has expired, the third is just
    // due.
    clock.advance(day_ms);
    permits.add_permits(3);
    let dead_letter = eventually("the dead letter", || async {
        let (_, dead_letters) = host.client.get("/dead-letters").await?;
        Ok(dead_letters["items"].get(0).cloned())
    })
    .await?;
    assert_eq!(
        (&dead_letter["code"], &dead_letter["event"]["id"]),
        (&json!("expired"), &json!("behind-it")),
        "{dead_letter}"
    );
    eventually("the third", || async {
        Ok((env.query_count("SELECT count(*) FROM deliveries WHERE status = 'done'").await? == 2)
            .then_some(()))
    })
    .await?;
    host.stop().await
}
