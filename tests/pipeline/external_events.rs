//! Events that other programs publish directly to the exchange: stages process them like any other,
//! and unreadable ones become dead letters with a reason.

use anyhow::{Context as _, Result};
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::amqp_url;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_events_are_processed_and_unreadable_ones_are_dead_lettered() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let exchange = env.servers.as_ref().context("servers")?.exchange();
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;

    // A structured CloudEvent: stock that another program announces.
    let event = json!({
        "specversion": "1.0", "id": "s-1", "source": "/warehouse", "type": "product.stocked", "subject": "Globe",
        "datacontenttype": "application/json", "data": { "sku": "Globe", "quantity": 7 },
    });
    let structured =
        BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let publish = async |key: &str, body: &[u8], properties: &BasicProperties| {
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(exchange.as_str().into(), key.into(), options, body, properties.clone())
            .await
    };
    // Twice: the second copy changes nothing.
    for _ in 0..2 {
        publish("product.stocked", event.to_string().as_bytes(), &structured).await?;
    }
    let known = || async { Ok(host.client.get("/products/Globe").await?.1["available"].as_i64()) };
    assert_eq!(eventually("the stock", known).await?, 7);

    // One in binary mode without a type, and one with invalid JSON.
    let mut headers = FieldTable::default();
    headers.insert("cloudEvents_id".into(), AMQPValue::LongString("x".into()));
    publish("product.stocked", b"{}", &BasicProperties::default().with_headers(headers)).await?;
    publish("product.stocked", b"not JSON", &structured).await?;
    let dead_letters = eventually("two dead letters", || async {
        let (_, dead_letters) = host.client.get("/dead-letters?code=unreadable").await?;
        let items = dead_letters["items"].as_array().cloned().unwrap_or_default();
        Ok((items.len() == 2).then_some(items))
    })
    .await?;
    for dead_letter in &dead_letters {
        assert_eq!(
            (&dead_letter["stage"], &dead_letter["status"]),
            (&Value::from("inventory"), &Value::from("open")),
            "{dead_letter}"
        );
    }
    assert_eq!(known().await?, Some(7), "a copy changed the stock");
    connection.close(200, "done".into()).await?;
    host.stop().await
}
