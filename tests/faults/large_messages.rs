//! Events that are larger than the broker's limit on a message: they hold up no other event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postrider_tests::private_servers::PrivateRabbit;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{RunningHost, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::Servers;

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
    for (id, bytes) in [("large", 100_000), ("larger", 200_000)] {
        let (status, answer) = note(&host, id, bytes).await?;
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
