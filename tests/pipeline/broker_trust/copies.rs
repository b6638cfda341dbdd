//! Copies of genuine messages change nothing: sent again as they are, without their signature, or as if
//! the broker had dead-lettered them.

use anyhow::{Context as _, Result};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Value, json};

use super::{
    ATTEMPT, CONFIG, Outsider, Route, SIGNATURE, dead_letters, drain, drained, header, order, seen,
    text, with,
};
use crate::support::harness::{Backend, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;

/// The `x-death` that the broker would add to a message of a stage's queue.
fn dead_lettered(properties: &BasicProperties, namespace: &str, reason: &str) -> BasicProperties {
    let mut entry = FieldTable::default();
    entry.insert("count".into(), AMQPValue::LongLongInt(1));
    entry.insert("reason".into(), text(reason));
    entry.insert("queue".into(), text(&format!("{namespace}.stage.payment")));
    entry.insert("exchange".into(), text(&format!("{namespace}.events")));
    entry.insert("routing-keys".into(), AMQPValue::FieldArray(vec![text("order.created")].into()));
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(
        "x-death".into(),
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(entry)])),
    );
    headers.insert("x-first-death-reason".into(), text(reason));
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(99));
    properties.clone().with_headers(headers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_genuine_messages_change_nothing() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{CONFIG}{AMPLE_STOCK}")).await?;
    let host = env.start_consuming().await?;
    let client = &host.client;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    order(client, "A", json!({ "force_fail": true })).await?;
    order(client, "B", json!({})).await?;
    client.wait_for_status("B", "ready").await?;
    let waiting = outsider.capture("order-A").await?;
    let done = outsider.capture("order-B").await?;
    let settled = "SELECT count(*) FROM deliveries WHERE status <> 'open' OR attempt = 2";
    let all = "SELECT count(*) FROM deliveries";
    eventually("both", || async {
        Ok((env.query_count(settled).await? == env.query_count(all).await?).then_some(()))
    })
    .await?;
    let before = [seen(client, "A").await?, seen(client, "B").await?];

    for message in [&waiting, &done] {
        let (properties, body) = (&message.properties, &*message.data);
        let unsigned = with(properties, &[(SIGNATURE, None)]);
        for properties in [properties, &unsigned] {
            let routes = [
                Route::Events("order.created"),
                Route::Queue("payment"),
                Route::DeadQueue("payment"),
                Route::DeadExchange("payment"),
            ];
            for route in routes {
                outsider.send(route, properties.clone(), body).await?;
                let expiring = properties.clone().with_expiration("1".into());
                outsider.send(route, expiring, body).await?;
            }
            for reason in ["expired", "rejected", "maxlen", "delivery_limit", "made up"] {
                let dead = dead_lettered(properties, &outsider.namespace, reason);
                for route in [Route::Events("order.created"), Route::DeadQueue("payment")] {
                    outsider.send(route, dead.clone(), body).await?;
                }
            }
        }
    }
    // The broker removes the header, and adds a queue that the message was not for.
    let mut headers = done.properties.headers().clone().unwrap_or_default();
    headers.insert("BCC".into(), AMQPValue::FieldArray(vec![text("payment.authorized")].into()));
    let properties = done.properties.clone().with_headers(headers);
    outsider.send(Route::Events("order.created"), properties, &done.data).await?;
    drained(&env, &["payment", "inventory"]).await?;
    let sent = "SELECT count(*) FROM outbox WHERE attempt IS NULL OR attempt < 2";
    eventually("an empty outbox", || async {
        Ok((env.query_count(sent).await? == 0).then_some(()))
    })
    .await?;
    assert_eq!([seen(client, "A").await?, seen(client, "B").await?], before);
    assert_eq!(dead_letters(client, 0).await?, Vec::<Value>::new());

    // To another stage they are not genuine.
    let inventory = Route::Queue("inventory");
    outsider.send(inventory, done.properties.clone(), &done.data).await?;
    let found = dead_letters(client, 1).await?;
    assert_eq!((&found[0]["stage"], &found[0]["code"]), (&json!("inventory"), &json!("forged")));
    assert!(found[0]["message"].as_str().is_some_and(|text| text.contains("copy")), "{found:?}");
    assert_eq!([seen(client, "A").await?, seen(client, "B").await?], before);
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_expires_in_the_queue_settles_nothing() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{CONFIG}{AMPLE_STOCK}")).await?;
    let host = env.start_consuming().await?;
    let client = &host.client;
    let servers = env.servers.as_ref().context("servers")?;
    let outsider = Outsider::connect(servers).await?;
    drain(client, "payment").await?;
    order(client, "A", json!({})).await?;
    let genuine = outsider.capture("order-A").await?;
    // Only the copy is left.
    outsider.take(&servers.queue("payment"), "order-A").await?;
    let expiring = dead_lettered(&genuine.properties, &outsider.namespace, "delivery_limit");
    let expiring = expiring.with_expiration("1".into());
    outsider.send(Route::Events("order.created"), expiring, &genuine.data).await?;
    // Its delivery is sent again, as the store has it.
    let again = outsider.take_attempt(&servers.queue("payment")).await?;
    assert_eq!(header(&again.properties, ATTEMPT).as_deref(), Some("1"));
    outsider.send(Route::Queue("payment"), again.properties.clone(), &again.data).await?;
    client.post("/stages/payment/resume", &json!({})).await?;
    client.wait_for_status("A", "ready").await?;
    assert_eq!(dead_letters(client, 0).await?, Vec::<Value>::new());
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_messages_of_an_older_version_are_taken_from_the_store() -> Result<()> {
    const ORDERS: usize = 20;
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{CONFIG}{AMPLE_STOCK}")).await?;
    let host = env.start_consuming().await?;
    let client = &host.client;
    let servers = env.servers.as_ref().context("servers")?;
    let outsider = Outsider::connect(servers).await?;
    drain(client, "payment").await?;
    let mut messages = Vec::new();
    for number in 0..ORDERS {
        order(client, &number.to_string(), json!({})).await?;
        let event = format!("order-{number}");
        messages.push(outsider.take(&servers.queue("payment"), &event).await?);
    }
    for message in &messages {
        let unsigned = with(&message.properties, &[(SIGNATURE, None)]);
        outsider.send(Route::Events("order.created"), unsigned, &message.data).await?;
    }
    client.post("/stages/payment/resume", &json!({})).await?;
    for number in 0..ORDERS {
        client.wait_for_status(&number.to_string(), "ready").await?;
    }
    assert_eq!(dead_letters(client, 0).await?, Vec::<Value>::new());
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    let authorized = "SELECT count(*) FROM events WHERE type = 'payment.authorized'";
    assert_eq!(env.query_count(authorized).await?, ORDERS as i64);
    outsider.close().await?;
    host.stop().await
}
