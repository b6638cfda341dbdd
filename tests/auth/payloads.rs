//! Payloads are shown to principals with a permission of its own, on every route.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Guarded, TOKENS};
use crate::support::harness::TestEnv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_hidden_from_readers() -> Result<()> {
    let env = TestEnv::empty(TOKENS)?;
    let guarded = Guarded::start(&env).await?;
    let dead_letter = guarded.dead_letter("1").await?;
    let reader = guarded.key("reader", &["operate", "read"]).await?;
    let auditor = guarded.key("auditor", &["read", "payloads"]).await?;
    let filter = json!({ "filter": { "code": "none" }, "edit": { "note": "SecretBook" } });
    let (status, job) = guarded.post("/dead-letters/replay", &reader, &filter).await?;
    assert_eq!((status, &job["edit"]), (StatusCode::ACCEPTED, &Value::Null));
    let (_, events) = guarded.get("/orders/1/events", &reader).await?;
    let event = events["items"][0]["id"].as_str().unwrap_or_default().to_owned();
    for path in [
        "/orders".to_owned(),
        "/orders/1".into(),
        "/orders/1/events".into(),
        "/events".into(),
        format!("/events/{event}"),
        format!("/dead-letters/{dead_letter}"),
        "/dead-letters".into(),
        "/dead-letters/jobs".into(),
    ] {
        let (status, said) = guarded.get(&path, &reader).await?;
        assert_eq!(status, StatusCode::OK, "{path}: {said}");
        assert!(!said.to_string().contains("SecretBook"), "{path}: {said}");
        assert_eq!(guarded.get(&path, &auditor).await?.0, StatusCode::OK, "{path}");
    }
    for path in ["/orders/1", "/events", "/orders/1/events", "/dead-letters/1"] {
        let (_, said) = guarded.get(path, &auditor).await?;
        assert!(said.to_string().contains("SecretBook"), "{path}: {said}");
    }
    // Live streams hide them as well.
    let url = format!("{}/orders/1/events", guarded.host.client.url);
    let stream = guarded.http.get(url).bearer_auth(&reader).header("accept", "text/event-stream");
    let mut stream = stream.send().await?.error_for_status()?;
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await? {
        text.push_str(&String::from_utf8_lossy(&chunk));
        if text.contains("order.created") && text.contains("\n\n") {
            break;
        }
    }
    assert!(text.contains("order.created") && !text.contains("SecretBook"), "{text}");
    for path in ["/events/export", "/stages/payment/recordings"] {
        assert_eq!(guarded.get(path, &reader).await?.0, StatusCode::FORBIDDEN, "{path}");
        assert_ne!(guarded.get(path, &auditor).await?.0, StatusCode::FORBIDDEN, "{path}");
    }
    drop(stream);
    guarded.stop().await
}
