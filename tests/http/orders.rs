//! Orders as their sender sees them: accepted, deduplicated, processed by four stages, listed.

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::harness::{Backend, SHIPPED, TestEnv, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    order_history_names_the_stages_versions_and_hosts_that_ran,
    long_timeline_is_read_in_pages,
    duplicate_order_is_accepted_and_conflicting_order_is_refused,
    nul_in_a_query_is_a_client_error
];

fn book(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "42", "items": ["Book"], "total": 20.0 })
}

async fn long_timeline_is_read_in_pages(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    host.client.post("/orders", &json!({ "order_id": "t", "items": ["Book"], "total": 1 })).await?;
    host.client.wait_for_status("t", "ready").await?;
    // Anybody may send events for an order.
    for _ in 0..120 {
        let of_order = ("ce-subject", "t");
        host.client.post_with_header("/events/carrier.collected", &json!({}), of_order).await?;
    }
    let mut stages = 0;
    let mut after = 0;
    let mut pages = 0;
    loop {
        let (status, page) = host.client.get(&format!("/orders/t?limit=50&after={after}")).await?;
        assert_eq!(status, StatusCode::OK, "{page}");
        let timeline = page["timeline"].as_array().context("a timeline")?;
        assert!(timeline.len() <= 2 * 50, "{}", timeline.len());
        (stages, pages) = (stages + timeline.len(), pages + 1);
        let Some(next) = page["next"].as_i64() else { break };
        after = next;
    }
    let said = postrider(&["--json", "orders", "get", "t", "--url", &host.client.url]).await?.1;
    let whole: Value = serde_json::from_str(&said)?;
    assert_eq!(whole["timeline"].as_array().map(Vec::len), Some(stages));
    assert!(stages > 120 && pages > 2, "{stages} in {pages} pages");
    host.stop().await
}

async fn order_history_names_the_stages_versions_and_hosts_that_ran(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let (status, accepted) = host.client.post("/orders", &book("123")).await?;
    assert_eq!((status, accepted["order_id"].as_str()), (StatusCode::ACCEPTED, Some("123")));
    host.client.wait_for_status("123", "ready").await?;
    let history = crate::support::harness::eventually("the notification", || async {
        let (_, history) = host.client.get("/orders/123").await?;
        let done = history["timeline"].as_array().is_some_and(|stages| {
            stages.len() == 4 && stages.iter().all(|stage| stage["status"] == "done")
        });
        Ok(done.then_some(history))
    })
    .await?;
    let host_name = &host.client.get("/hosts").await?.1["answered_by"];
    for (entry, stage) in history["timeline"].as_array().expect("a timeline").iter().zip(SHIPPED) {
        assert_eq!((&entry["stage"], &entry["host"]), (&json!(stage), host_name));
        assert_eq!(entry["plugin"]["digest"].as_str().map(str::len), Some(64), "{entry}");
        assert!(
            entry["plugin"]["version"].is_string() && entry["duration_ms"].is_number(),
            "{entry}"
        );
    }
    let (_, events) = host.client.get("/orders/123/events").await?;
    let types: Vec<&str> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect();
    assert_eq!(
        types,
        [
            "order.created",
            "payment.authorized",
            "inventory.reserved",
            "shipping.ready",
            "notification.sent"
        ]
    );
    host.stop().await
}

async fn duplicate_order_is_accepted_and_conflicting_order_is_refused(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for expected in [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::OK] {
        assert_eq!(host.client.post("/orders", &book("7")).await?.0, expected);
    }
    let other = json!({ "order_id": "7", "user_id": "42", "items": ["Lamp"] });
    let (status, problem) = host.client.post("/orders", &other).await?;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["type"].as_str().is_some_and(|uri| uri.starts_with("/problems/")), "{problem}");
    host.client.wait_for_status("7", "ready").await?;
    let (_, events) = host.client.get("/orders/7/events").await?;
    let created = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["type"] == "order.created")
        .count();
    assert_eq!(created, 1);
    host.stop().await
}

async fn nul_in_a_query_is_a_client_error(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for path in [
        "/orders/%00",
        "/orders/%00/events",
        "/events/%00",
        "/events/a?source=%00",
        "/products/%00",
        "/plugins/%00/history",
    ] {
        assert_eq!(host.client.get(path).await?.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in [
        "/orders?status=%00&customer=%00&stage=%00",
        "/events?type=%00&source=%00&stage=%00&correlation=%00",
    ] {
        assert_eq!(host.client.get(path).await?.1["items"], json!([]), "{path}");
    }
    for path in [
        "/dead-letters?stage=%00&code=%00&group=%00",
        "/dead-letters/groups?code=%00",
        "/products?after=%00",
    ] {
        assert_eq!(host.client.get(path).await?.0, StatusCode::OK, "{path}");
    }
    assert_eq!(host.client.get("/stages/%00/recordings").await?.0, StatusCode::OK);
    for path in ["/events", "/dead-letters", "/stages/payment/recordings"] {
        let (status, problem) = host.client.get(&format!("{path}?subject=%00")).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(problem["detail"].to_string().contains("subject: "), "{problem}");
    }
    assert_eq!(host.client.post("/orders/%00/cancel", &json!({})).await?.0, StatusCode::NOT_FOUND);
    assert_eq!(host.client.post("/stages/%00/pause", &json!({})).await?.0, StatusCode::NOT_FOUND);
    let filter = json!({ "filter": { "stage": "\u{0}", "code": "\u{0}", "group": "\u{0}" } });
    assert_eq!(host.client.post("/dead-letters/replay", &filter).await?.0, StatusCode::ACCEPTED);
    let order =
        json!({ "order_id": "1", "user_id": "1", "items": ["Book"], "total": 1, "note": "\u{0}" });
    assert_eq!(host.client.post("/orders", &order).await?.0, StatusCode::ACCEPTED);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_body_reports_every_field_error_and_changes_nothing() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start().await?;
    let bad = json!({ "order_id": "a/b", "user_id": "42", "items": [], "total": -1 });
    let (status, problem) = host.client.post("/orders", &bad).await?;
    assert!(status.is_client_error(), "{status}");
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .filter_map(|error| error["pointer"].as_str())
        .collect();
    assert_eq!(pointers, ["/order_id", "/items", "/total"]);
    for (content_type, body) in [
        ("application/json", "{\"items\": [".to_owned()),
        ("application/json", "{\"user_id\":\"1\",\"items\":[\"Book\"],\"total\":1e999}".to_owned()),
        ("application/json", "[1,2]".to_owned()),
        ("text/plain", "hello".to_owned()),
        // Little more than the limit: the host responds without reading further, and data still in
        // flight then resets the connection.
        ("application/json", format!("{{\"items\":[\"{}\"]}}", "x".repeat((1 << 20) + 1))),
    ] {
        let (status, problem) = host.client.post_raw("/orders", content_type, body).await?;
        assert!(status.is_client_error(), "{status}");
        assert_eq!(problem["status"], status.as_u16(), "{problem}");
    }
    let (_, orders) = host.client.get("/orders").await?;
    assert_eq!(orders["items"].as_array().map(Vec::len), Some(0));
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_order_survives_a_restart() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start().await?;
    for id in 0..50 {
        host.client.post("/orders", &book(&id.to_string())).await?;
    }
    host.stop().await?;
    let host = env.start().await?;
    for id in 0..50 {
        host.client.wait_for_status(&id.to_string(), "ready").await?;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_host_on_the_same_file_is_refused() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start().await?;
    let refused = postrider::Host::builder()
        .config(env.config()?)
        .build()
        .await
        .err()
        .map(|error| format!("{:#}", anyhow::Error::from(error)));
    assert!(refused.as_deref().is_some_and(|text| text.contains("postrider.db")), "{refused:?}");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_larger_than_the_queue_completes() -> Result<()> {
    let env = TestEnv::shipped(&format!("broker.queue_capacity = 8\n{AMPLE_STOCK}"))?;
    let host = env.start().await?;
    let mut posts = tokio::task::JoinSet::new();
    for id in 0..300 {
        let client = host.client.clone();
        posts.spawn(async move { client.post("/orders", &book(&format!("b-{id}"))).await });
    }
    while let Some(answer) = posts.join_next().await {
        assert_eq!(answer??.0, StatusCode::ACCEPTED);
    }
    for id in 0..300 {
        host.client.wait_for_status(&format!("b-{id}"), "ready").await?;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturated_host_refuses_orders_and_answers_probes() -> Result<()> {
    let env = TestEnv::shipped("http.concurrency_max = 0\n")?;
    let host = env.start().await?;
    let (status, problem) = host.client.post("/orders", &book("1")).await?;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("/problems/unavailable"))
    );
    assert_eq!(host.client.get("/health").await?.0, StatusCode::OK);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritable_data_folder_is_named_in_the_error() -> Result<()> {
    let env = TestEnv::shipped("")?;
    std::fs::write(env.folder.path().join("data"), b"a file where the folder should be")?;
    let refused = postrider::Host::builder()
        .config(env.config()?)
        .build()
        .await
        .err()
        .map(|error| format!("{:#}", anyhow::Error::from(error)));
    assert!(refused.as_deref().is_some_and(|text| text.contains("data")), "{refused:?}");
    Ok(())
}

/// A large body whose headers are refused: the answer must not be lost while the client still sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_reaches_a_client_that_is_still_sending() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start().await?;
    let body = "x".repeat(900_000);
    for (method, path, expected) in [
        (Method::POST, "/orders", StatusCode::BAD_REQUEST),
        (Method::POST, "/nowhere", StatusCode::NOT_FOUND),
        (Method::PUT, "/orders", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        for _ in 0..20 {
            let url = format!("{}{path}", host.client.url);
            let sent = reqwest::Client::new().request(method.clone(), url);
            let sent = sent.header("content-type", "application/json").header("delay", "soon");
            let status = sent.body(body.clone()).send().await?.status();
            assert_eq!(status, expected, "{method} {path}");
        }
    }
    host.stop().await
}
