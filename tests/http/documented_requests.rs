//! Every request in the documentation of the order systems that Postrider replaces, verbatim.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![every_documented_request_is_served];

/// Path, body, and the expected result.
const POSTED: [(&str, &str); 6] = [
    ("/orders", r#"{"order_id":"123","user_id":"42","items":["Book"],"total":20.0}"#),
    (
        "/orders",
        r#"{"order_id":"124","user_id":"42","items":["Book"],"total":20.0,"force_fail":true}"#,
    ),
    (
        "/api/v1/orders",
        r#"{"customer_id":"cust_123","items":[{"product_id":"prod_001","quantity":2},{"product_id":"prod_002","quantity":1}]}"#,
    ),
    ("/products", r#"{"product_name":"iPhone","stock":50}"#),
    ("/orders", r#"{"user_id":1,"product_id":1,"quantity":1}"#),
    ("/api/v1/products", r#"{"product_name":"Pixel","stock":5}"#),
];

async fn every_documented_request_is_served(backend: Backend) -> Result<()> {
    let quick = format!("{AMPLE_STOCK}[stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 10\n");
    let env = TestEnv::shipped_on(backend, &quick).await?;
    let host = env.start().await?;
    let mut orders = Vec::new();
    for (path, body) in POSTED {
        let (status, answer) = host.client.post_raw(path, "application/json", body).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "POST {path} {body}: {answer}");
        orders.extend(answer["order_id"].as_str().map(str::to_owned));
    }
    assert_eq!(orders.len(), 4);
    assert_eq!(orders[..2], ["123", "124"]);
    for (id, expected) in orders.iter().zip(["ready", "failed", "ready", "ready"]) {
        host.client.wait_for_status(id, expected).await?;
        assert_eq!(host.client.get(&format!("/api/v1/orders/{id}")).await?.0, StatusCode::OK);
    }
    let (_, order) = host.client.get(&format!("/orders/{}", orders[2])).await?;
    let items: Vec<(&Value, &Value)> = order["order"]["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| (&item["sku"], &item["quantity"]))
        .collect();
    assert_eq!(items, [(&"prod_001".into(), &2.into()), (&"prod_002".into(), &1.into())]);
    eventually("the stock to be counted", || async {
        Ok((host.client.get("/products/iPhone").await?.0 == StatusCode::OK).then_some(()))
    })
    .await?;
    // Paused, so that the order is not ready before it is cancelled.
    let order = json!({ "order_id": "1", "user_id": 1, "product_id": 1, "quantity": 1 });
    assert_eq!(
        host.client.post_with_header("/orders", &order, ("Delay", "1h")).await?.0,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        host.client.post_raw("/orders/1/cancel", "application/json", "").await?.0,
        StatusCode::ACCEPTED
    );
    host.client.wait_for_status("1", "cancelled").await?;
    for path in ["/health", "/health/db", "/health/queue"] {
        assert_eq!(host.client.get(path).await?.0, StatusCode::OK, "{path}");
    }
    host.stop().await
}
