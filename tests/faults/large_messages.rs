//! Events that are larger than the broker carries, in their data or in their attributes: they hold up no
//! other event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postrider_tests::private_servers::PrivateRabbit;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::Servers;

on_both_back_ends![attributes_that_no_broker_carries_are_refused];

const LIMIT: &str = "max_message_size = 65536\n";
/// A stage that handles `desk.note`.
const DESK: &str = "[stages.notification.settings]\nreceipt_on = \"desk.note\"\n";
/// Time in which an order is done on a busy machine; without the fix none ever is.
const ORDER_MAX: Duration = Duration::from_secs(20);

async fn note(host: &RunningHost, id: &str, bytes: usize) -> Result<(StatusCode, Value)> {
    let response = reqwest::Client::new()
        .post(format!("{}/events/desk.note", host.client.url))
        .header("ce-id", id)
        .json(&json!({ "text": "x".repeat(bytes) }))
        .send()
        .await?;
    Ok((response.status(), response.json().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_for_the_broker_is_dead_lettered_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rabbit = PrivateRabbit::start_with(folder.path(), LIMIT)?;
    let mut env = TestEnv::shipped(&format!("{AMPLE_STOCK}{DESK}"))?;
    env.servers = Some(Servers::create_on(None, Some(rabbit.url())).await?);
    let host = env.start().await?;
    // The limit is not known yet. Two events exceed it, and orders are sent with them.
    // Together, because the first refusal of the broker tells the host.
    let (large, larger) =
        tokio::try_join!(note(&host, "large", 100_000), note(&host, "larger", 200_000))?;
    for (status, answer) in [large, larger] {
        ensure!(status == StatusCode::ACCEPTED, "{answer}");
    }
    let began = Instant::now();
    for id in 0..20 {
        let order = json!({ "order_id": id.to_string(), "items": ["Book"], "total": 1 });
        let (status, answer) = host.client.post("/orders", &order).await?;
        ensure!(status.is_success(), "{answer}");
    }
    for id in 0..20 {
        host.client.wait_for_status(&id.to_string(), "ready").await?;
    }
    ensure!(began.elapsed() < ORDER_MAX, "the orders took {:?}", began.elapsed());
    let dead_letters = eventually("two dead letters", || async {
        let items = host.client.get_all("/dead-letters?code=unreadable&limit=50").await?;
        Ok((items.len() == 2).then_some(items))
    })
    .await?;
    for dead_letter in dead_letters {
        let message = dead_letter["message"].as_str().unwrap_or_default();
        assert!(message.contains("max_message_size"), "{dead_letter}");
    }
    eventually("an empty outbox", || async {
        Ok((env.query_count("SELECT count(*) FROM outbox").await? == 0).then_some(()))
    })
    .await?;
    // Now it is known, and such an event is refused; a smaller one is accepted.
    let (status, problem) = note(&host, "refused", 150_000).await?;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("max_message_size")));
    let order = json!({ "order_id": "refused", "items": ["Book"], "note": "x".repeat(150_000) });
    let (status, problem) = host.client.post("/orders", &order).await?;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    let (status, answer) = note(&host, "small", 50_000).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let done = "SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event_seq \
                WHERE e.id = 'small' AND d.status = 'done'";
    eventually("the small event", || async {
        Ok((env.query_count(done).await? == 1).then_some(()))
    })
    .await?;
    host.stop().await
}

/// Attributes become headers of a message, which RabbitMQ bounds; the limit is the same on every store
/// and broker.
async fn attributes_that_no_broker_carries_are_refused(backend: Backend) -> Result<()> {
    const ATTRIBUTES: usize = 60;
    let env = TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start().await?;
    let post = async |id: &str, value: &str| -> Result<(StatusCode, Value)> {
        let mut event = json!({ "specversion": "1.0", "id": id, "source": "/desk",
            "type": "desk.note", "data": {} });
        for number in 0..ATTRIBUTES {
            event[format!("a{number}")] = json!(value);
        }
        host.client.post_raw("/events", "application/cloudevents+json", event.to_string()).await
    };
    // Each attribute is as long as it may be, and all together are not.
    let (status, problem) = post("large", &"\u{1f4a9}".repeat(1_024)).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(problem["errors"].to_string().contains("the limit is 32768"), "{problem}");
    let (status, answer) = post("fits", &"x".repeat(500)).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("o", "ready").await?;
    let done = "SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event_seq \
                WHERE e.source = '/desk' AND d.status = 'done'";
    eventually("the event that fits", || async {
        Ok((env.query_count(done).await? == 1).then_some(()))
    })
    .await?;
    host.stop().await
}
