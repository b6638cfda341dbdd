//! JSON in requests: numbers keep every digit on the whole way through the host, and a body that
//! programs read differently is refused.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    numbers_keep_every_digit,
    orders_that_differ_in_the_last_digit_conflict,
    repeated_keys_and_oversized_bodies_are_refused,
    exported_data_is_readable_and_exact
];

/// What a float cannot hold, or would write differently.
const NUMBERS: [&str; 5] = [
    "123456789012345678901234567890",
    "-9223372036854775809",
    "1004.9999999999999",
    "0.30000000000000004440892098500626",
    "1e+400",
];

fn order(id: &str, reference: &str) -> String {
    format!(r#"{{"order_id":"{id}","items":["Book"],"total":1.50,"external_ref":{reference}}}"#)
}

async fn numbers_keep_every_digit(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let url = &host.client.url;
    let http = reqwest::Client::new();
    for (at, number) in NUMBERS.into_iter().enumerate() {
        let body = order(&format!("n-{at}"), number);
        let sent = http.post(format!("{url}/orders")).header("content-type", "application/json");
        assert_eq!(sent.body(body).send().await?.status(), StatusCode::ACCEPTED, "{number}");
        host.client.wait_for_status(&format!("n-{at}"), "ready").await?;
        let field = format!(r#""external_ref":{number}"#).to_lowercase();
        for path in [format!("/orders/n-{at}"), format!("/orders/n-{at}/events")] {
            let text = http.get(format!("{url}{path}")).send().await?.text().await?;
            assert!(text.to_lowercase().contains(&field), "{path}: {text}");
        }
        // The shipped stages pass it on: the third event is the one of the reservation.
        let reserved = format!("/events?subject=order/n-{at}&type=inventory.reserved");
        let text = http.get(format!("{url}{reserved}")).send().await?.text().await?;
        assert!(text.to_lowercase().contains(&field), "{text}");
        assert!(text.contains(r#""total":1.50"#), "{text}");
    }
    host.stop().await
}

async fn orders_that_differ_in_the_last_digit_conflict(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = env.start().await?;
    let url = format!("{}/orders", host.client.url);
    let http = reqwest::Client::new();
    let post =
        |body: String| http.post(&url).header("content-type", "application/json").body(body).send();
    for (first, again, expected) in [
        ("123456789012345678901234567890", "123456789012345678901234567891", StatusCode::CONFLICT),
        ("1004.9999999999999", "1004.99999999999991", StatusCode::CONFLICT),
        ("1.10", "1.1", StatusCode::OK),
        ("100", "1e2", StatusCode::OK),
    ] {
        let id = first.replace('.', "-");
        assert_eq!(post(order(&id, first)).await?.status(), StatusCode::ACCEPTED);
        assert_eq!(post(order(&id, again)).await?.status(), expected, "{first} and {again}");
    }
    let answer = post(r#"{"order_id":9007199254740993.0,"items":["Book"]}"#.to_owned()).await?;
    assert_eq!(answer.json::<Value>().await?["order_id"], "9007199254740993");
    host.stop().await
}

async fn repeated_keys_and_oversized_bodies_are_refused(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = env.start().await?;
    let many = format!("[{}]", vec!["0"; 200_000].join(","));
    let cloud_event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/a","type":"a.b","data":{data}}}"#)
    };
    let (json, structured) = ("application/json", "application/cloudevents+json");
    let batch = "application/cloudevents-batch+json";
    for (path, content_type, body, reason) in [
        (
            "/orders",
            json,
            r#"{"items":[{"sku":"a","quantity":1,"quantity":9}]}"#.to_owned(),
            "`quantity` occurs twice",
        ),
        (
            "/orders",
            json,
            r#"{"total":1,"items":["a"],"total":20}"#.to_owned(),
            "`total` occurs twice",
        ),
        ("/orders", json, format!(r#"{{"items":["a"],"junk":{many}}}"#), "more than 100000 values"),
        (
            "/products",
            json,
            r#"{"sku":"a","quantity":1,"quantity":9}"#.to_owned(),
            "`quantity` occurs twice",
        ),
        ("/events", structured, cloud_event(r#"{"a":{"b":1,"b":2}}"#), "`b` occurs twice"),
        ("/events", structured, cloud_event(&many), "more than 100000 values"),
        ("/events", batch, format!("[{}]", cloud_event(r#"{"b":1,"b":2}"#)), "`b` occurs twice"),
        ("/events/a.b", json, r#"{"b":1,"b":2}"#.to_owned(), "`b` occurs twice"),
    ] {
        let sent = reqwest::Client::new().post(format!("{}{path}", host.client.url));
        let answer = sent.header("content-type", content_type).body(body).send().await?;
        let (status, problem) = (answer.status(), answer.text().await?);
        assert!(status.is_client_error() && problem.contains(reason), "{path}: {status} {problem}");
    }
    let (_, log) = host.client.get("/events").await?;
    assert_eq!(log["items"], json!([]));
    host.stop().await
}

async fn exported_data_is_readable_and_exact(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = env.start().await?;
    let data = r#"{"tier":"gold","spent":100.10,"by":123456789012345678901234567890}"#;
    let sent = reqwest::Client::new().post(format!("{}/events/loyalty.tier", host.client.url));
    sent.header("content-type", "application/json").body(data).send().await?.error_for_status()?;
    let lines = eventually("the event", || async {
        let lines = host.client.text("/events/export").await?;
        Ok((!lines.is_empty()).then_some(lines))
    })
    .await?;
    assert!(lines.contains(&format!(r#""data":{data}"#)), "{lines}");
    host.stop().await
}
