//! The order of stages is configuration: `config/inventory-first.toml` reserves before it charges, with
//! every compensation. A type that a stage does not handle is reported, and dead-lettered.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends, root};

on_both_back_ends![
    inventory_can_run_before_payment,
    declined_payment_releases_the_stock,
    cancel_at_any_point_compensates_what_was_done,
    type_that_a_stage_does_not_handle_is_reported_and_dead_lettered,
];

/// The sections of the shipped configuration that make the order.
fn inventory_first() -> Result<String> {
    let text = std::fs::read_to_string(root().join("config/inventory-first.toml"))?;
    let at = text.find("[stages.").context("the stages of the configuration")?;
    Ok(text[at..].replace("\"1000000\"", "\"1000\""))
}

async fn order(client: &Client, id: &str, extra: Value) -> Result<()> {
    let mut order = json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 2 }], "total": 30 });
    if let (Some(order), Value::Object(extra)) = (order.as_object_mut(), extra) {
        order.extend(extra);
    }
    let (status, answer) = client.post("/orders", &order).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(())
}

/// The events of the payment, inventory and shipping stages about an order, in the order of the log.
async fn events_of(client: &Client, id: &str) -> Result<Vec<String>> {
    let (_, events) = client.get(&format!("/orders/{id}/events?limit=200")).await?;
    let types =
        events["items"].as_array().into_iter().flatten().filter_map(|one| one["type"].as_str());
    let of_stages = |one: &&str| !one.starts_with("order.") && *one != "notification.sent";
    Ok(types.filter(of_stages).map(str::to_owned).collect())
}

/// Waits until an order has no open delivery.
async fn settled(client: &Client, id: &str) -> Result<Value> {
    eventually(&format!("order {id} to be settled"), || async {
        let (_, order) = client.get(&format!("/orders/{id}")).await?;
        let mut deliveries = order["timeline"].as_array().into_iter().flatten();
        let settled = !deliveries.any(|delivery| delivery["status"] == "open");
        Ok(settled.then_some(order))
    })
    .await
}

async fn available_lamps(client: &Client) -> Result<u64> {
    Ok(client.get("/products/Lamp").await?.1["available"].as_u64().unwrap_or(1_000))
}

async fn inventory_can_run_before_payment(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &inventory_first()?).await?;
    let host = env.start().await?;
    let client = &host.client;
    assert_eq!(client.get("/topology").await?.1["warnings"], json!([]));
    order(client, "1", json!({})).await?;
    client.wait_for_status("1", "ready").await?;
    settled(client, "1").await?;
    assert_eq!(
        events_of(client, "1").await?,
        ["inventory.reserved", "payment.authorized", "shipping.ready"]
    );
    assert_eq!(available_lamps(client).await?, 998);
    // Nothing is paid when the stock does not suffice.
    order(client, "2", json!({ "items": [{ "sku": "Lamp", "quantity": 999 }] })).await?;
    client.wait_for_status("2", "rejected").await?;
    settled(client, "2").await?;
    assert_eq!(events_of(client, "2").await?, ["inventory.rejected"]);
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    host.stop().await
}

async fn declined_payment_releases_the_stock(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &inventory_first()?).await?;
    let host = env.start().await?;
    let client = &host.client;
    order(client, "1", json!({ "decline": true })).await?;
    client.wait_for_status("1", "declined").await?;
    let history = settled(client, "1").await?;
    assert_eq!(history["status"], "declined");
    assert_eq!(
        events_of(client, "1").await?,
        ["inventory.reserved", "payment.declined", "inventory.released"]
    );
    assert_eq!(available_lamps(client).await?, 1_000);
    host.stop().await
}

async fn cancel_at_any_point_compensates_what_was_done(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &inventory_first()?).await?;
    let host = env.start().await?;
    let client = &host.client;
    let points: [(&str, &str, &[&str]); 4] = [
        ("inventory", "received", &[]),
        ("payment", "reserved", &["inventory.released"]),
        ("shipping", "authorized", &["inventory.released", "payment.refunded"]),
        ("notification", "ready", &["inventory.released", "payment.refunded", "shipping.recalled"]),
    ];
    for (stage, before, expected) in points {
        client.post(&format!("/stages/{stage}/pause"), &json!({})).await?;
        order(client, stage, json!({})).await?;
        client.wait_for_status(stage, before).await?;
        let (status, _) = client.post(&format!("/orders/{stage}/cancel"), &json!({})).await?;
        assert_eq!(status, StatusCode::ACCEPTED);
        client.post(&format!("/stages/{stage}/resume"), &json!({})).await?;
        client.wait_for_status(stage, "cancelled").await?;
        settled(client, stage).await?;
        let mut undone = events_of(client, stage).await?;
        undone.retain(|one| {
            ["inventory.released", "payment.refunded", "shipping.recalled"].contains(&one.as_str())
        });
        undone.sort_unstable();
        assert_eq!(undone, expected, "cancelled before {stage}");
        assert_eq!(available_lamps(client).await?, 1_000, "cancelled before {stage}");
    }
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    host.stop().await
}

/// Only the route changes: the stage acts on its default types.
const ONLY_ROUTED: &str = "
[stages.inventory]
consumes = [\"order.created\", \"order.cancelled\", \"product.stocked\"]
";

async fn type_that_a_stage_does_not_handle_is_reported_and_dead_lettered(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, ONLY_ROUTED).await?;
    let host = env.start().await?;
    let client = &host.client;
    let (_, topology) = client.get("/topology").await?;
    let warning = "stage `inventory` consumes `order.created`, which its plugin does not handle";
    for (place, warnings) in [
        ("/topology", &topology["warnings"]),
        ("/plugins", &client.plugin_of_stage("inventory").await?["warnings"]),
    ] {
        let all: Vec<&str> =
            warnings.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(all.len() == 1 && all[0].starts_with(warning), "{place}: {all:?}");
    }
    order(client, "1", json!({})).await?;
    let dead_letter = eventually("a dead letter", || async {
        let (_, dead_letters) = client.get("/dead-letters?status=open").await?;
        Ok(dead_letters["items"].get(0).cloned())
    })
    .await?;
    assert_eq!(
        (&dead_letter["stage"], &dead_letter["code"]),
        (&json!("inventory"), &json!("unhandled-event")),
        "{dead_letter}"
    );
    host.stop().await
}
