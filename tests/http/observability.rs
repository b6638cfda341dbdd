//! Traces and metrics: one trace from the caller to the last stage, and counts of outcomes.

use std::sync::Arc;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![trace_of_a_caller_reaches_every_event_and_stage];

/// Records the trace headers that it would propagate.
struct Watcher(Arc<Mutex<Vec<(String, String)>>>);

#[async_trait]
impl NativeStage for Watcher {
    fn describe(&self) -> Description {
        Description::new("watcher", "1.0.0", "Watches").consumes(["shipping.ready"])
    }

    async fn handle(&self, cx: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.0.lock().expect("no test panics here").extend(cx.call.trace_headers());
        Ok(vec![])
    }
}

async fn trace_of_a_caller_reaches_every_event_and_stage(backend: Backend) -> Result<()> {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watcher = Watcher(Arc::clone(&seen));
    let host = env.start_with(|builder| builder.stage(watcher)).await?;
    let order = json!({ "order_id": "t-1", "user_id": "1", "items": ["Book"], "total": 1 });
    let header = format!("00-{TRACE}-b7ad6b7169203331-01");
    host.client.post_with_header("/orders", &order, ("traceparent", &header)).await?;
    host.client.wait_for_status("t-1", "ready").await?;
    let headers = eventually("the watcher", || async {
        Ok(Some(seen.lock().expect("no panic").clone()).filter(|seen| !seen.is_empty()))
    })
    .await?;
    let (_, events) = host.client.get("/orders/t-1/events").await?;
    let events = events["items"].as_array().context("events")?;
    assert!(events.len() >= 4, "{events:?}");
    let parents: Vec<String> = events
        .iter()
        .map(|event| event["attributes"]["traceparent"].as_str().unwrap_or("none").to_owned())
        .collect();
    let mut spans: Vec<&str> = parents
        .iter()
        .chain([&headers[0].1])
        .filter_map(|parent| parent.split('-').nth(2))
        .collect();
    assert!(
        parents.iter().chain([&headers[0].1]).all(|parent| parent.split('-').nth(1) == Some(TRACE)),
        "{parents:?} {headers:?}"
    );
    spans.sort_unstable();
    spans.dedup();
    assert_eq!(spans.len(), events.len() + 1, "each event and each attempt is a span of its own");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_outcomes() -> Result<()> {
    let env = TestEnv::shipped("[stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\n")?;
    let host = env.start().await?;
    let order = |id: &str, more: Value| {
        let mut order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 });
        order
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        order
    };
    host.client.stock("Book", 10).await?;
    for id in ["1", "2", "3"] {
        host.client.post("/orders", &order(id, json!({}))).await?;
    }
    host.client.post("/orders", &order("4", json!({ "force_fail": true }))).await?;
    for id in ["1", "2", "3"] {
        host.client.wait_for_status(id, "ready").await?;
    }
    let expected = [
        "postrider_deliveries_total{stage=\"payment\",outcome=\"done\"} 3",
        "postrider_deliveries_total{stage=\"payment\",outcome=\"retried\"} 1",
        "postrider_deliveries_total{stage=\"payment\",outcome=\"dead-lettered\"} 1",
        "postrider_delivery_duration_seconds_count{stage=\"payment\"} 5",
        "postrider_delivery_duration_seconds_bucket{stage=\"payment\",le=\"+Inf\"} 5",
        "postrider_breaker_open{stage=\"payment\"} 0.0",
        "postrider_stage_consuming{stage=\"payment\"} 1.0",
    ];
    let counted = || async {
        let text = host.client.text("/metrics").await?;
        let missing: Vec<&str> = expected
            .into_iter()
            .filter(|line| !text.lines().any(|present| present == *line))
            .collect();
        Ok(if missing.is_empty() { Some(text) } else { None })
    };
    let text = eventually("the counts", counted).await?;
    assert!(!text.contains("# EOF"), "OpenMetrics was not asked for: {text}");
    host.stop().await
}
