//! Events that other programs publish directly to the exchange: stages process them like any other,
//! under the rules that hold over HTTP, and unreadable ones become dead letters with a reason.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, gzip, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::amqp_url;

/// A stage that handles `desk.note`.
const DESK: &str = "[stages.notification.settings]\nreceipt_on = \"desk.note\"\n";

/// Publishes as another program does.
struct Outsider {
    exchange: String,
    connection: Connection,
    channel: Channel,
}

impl Outsider {
    async fn connect(env: &TestEnv) -> Result<Self> {
        let exchange = env.servers.as_ref().context("servers")?.exchange();
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { exchange, connection, channel })
    }

    async fn publish(&self, body: &[u8], properties: BasicProperties) -> Result<()> {
        let (exchange, key) = (self.exchange.as_str().into(), "desk.note".into());
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange, key, options, body, properties).await?;
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

/// An event in binary mode, with more headers.
fn binary(id: &str, more: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut headers = FieldTable::default();
    let attributes =
        [("specversion", "1.0"), ("id", id), ("source", "/desk"), ("type", "desk.note")];
    for (name, value) in attributes {
        let name = format!("cloudEvents_{name}");
        headers.insert(name.as_str().into(), AMQPValue::LongString(value.into()));
    }
    for (name, value) in more {
        headers.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_content_type("application/json".into()).with_headers(headers)
}

/// The first part of the host's sources.
fn namespace(env: &TestEnv) -> Result<String> {
    let exchange = env.servers.as_ref().context("servers")?.exchange();
    Ok(exchange.strip_suffix(".events").context("an exchange for events")?.to_owned())
}

/// The event of this id, once it is in the log.
async fn logged(host: &RunningHost, id: &str) -> Result<Value> {
    eventually(&format!("the event {id}"), || async {
        let (status, event) = host.client.get(&format!("/events/{id}")).await?;
        Ok(status.is_success().then_some(event))
    })
    .await
}

/// All dead letters of unreadable messages, once there are this many.
async fn dead_letters(host: &RunningHost, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} dead letters"), || async {
        let items = host.client.get_all("/dead-letters?code=unreadable&limit=200").await?;
        Ok((items.len() >= count).then_some(items))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_of_every_amqp_type_reach_the_log() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    let sent = [
        ("cloudEvents_tiny", AMQPValue::ShortShortInt(-5), "-5"),
        ("cloudEvents_small", AMQPValue::ShortInt(300), "300"),
        ("cloudEvents_int", AMQPValue::LongInt(70_000), "70000"),
        ("cloudEvents_big", AMQPValue::LongLongInt(1_000_000_000_000), "1000000000000"),
        ("cloudEvents_byte", AMQPValue::ShortShortUInt(200), "200"),
        ("cloudEvents_word", AMQPValue::ShortUInt(60_000), "60000"),
        ("cloudEvents_long", AMQPValue::LongUInt(4_000_000_000), "4000000000"),
        ("cloudEvents_half", AMQPValue::Double(0.5), "0.5"),
        ("cloudEvents_single", AMQPValue::Float(1.1), "1.1"),
        ("cloudEvents_yes", AMQPValue::Boolean(true), "true"),
        (
            "cloudEvents_price",
            AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1_234 }),
            "12.34",
        ),
        ("cloudEvents_when", AMQPValue::Timestamp(1_580_702_706), "2020-02-03T04:05:06Z"),
        ("cloudEvents_raw", AMQPValue::ByteArray(b"raw".to_vec().into()), "cmF3"),
    ];
    let mut headers: Vec<(&str, AMQPValue)> =
        sent.iter().map(|(name, value, _)| (*name, value.clone())).collect();
    headers.push(("cloudEvents_time", AMQPValue::Timestamp(1_580_702_706)));
    headers.push(("cloudEvents_id", AMQPValue::ShortShortInt(42)));
    outsider.publish(b"{}", binary("", &headers)).await?;
    let event = logged(&host, "42").await?;
    assert_eq!(event["time_ms"], 1_580_702_706_000_u64, "{event}");
    let expected: BTreeMap<&str, &str> =
        sent.iter().map(|(name, _, text)| (&name["cloudEvents_".len()..], *text)).collect();
    assert_eq!(event["attributes"], json!(expected));
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_http_hold_for_messages() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let document = |id: &str| {
        json!({ "specversion": "1.0", "id": id, "source": "/d", "type": "desk.note", "data": {} })
            .to_string()
    };
    let typed =
        |content_type: &str| BasicProperties::default().with_content_type(content_type.into());
    let structured = || typed("Application/CloudEvents+JSON; charset=UTF-8");

    // What is taken over HTTP is taken here.
    outsider.publish(document("case").as_bytes(), structured()).await?;
    let compressed = gzip(document("gz").as_bytes())?;
    outsider.publish(&compressed, structured().with_content_encoding("gzip".into())).await?;
    outsider.publish(b"{}", binary("utf8", &[]).with_content_encoding("UTF-8".into())).await?;
    let with_bom = format!("\u{feff}{}", document("bom"));
    outsider.publish(with_bom.as_bytes(), structured()).await?;
    for id in ["case", "gz", "utf8", "bom"] {
        logged(&host, id).await?;
    }

    let large = vec![b' '; 1_200_000];
    let refused: Vec<(BasicProperties, &[u8], &str)> = vec![
        (typed("application/cloudevents-batch+json"), b"[]", "batches are not supported"),
        (typed("application/cloudevents+avro"), b"x", "`application/cloudevents+avro`"),
        (
            binary("1", &[("cloudEvents_list", AMQPValue::FieldArray(vec![].into()))]),
            b"{}",
            "`list`",
        ),
        (
            binary("2", &[("cloudEvents_table", AMQPValue::FieldTable(FieldTable::default()))]),
            b"{}",
            "`table`",
        ),
        (binary("3", &[("cloudEvents_TenantId", text("x"))]), b"{}", "`TenantId`"),
        (binary(&"i".repeat(900), &[]), b"{}", "`id` must be at most 255"),
        (binary("..", &[]), b"{}", "`id` must not be"),
        (
            binary("4", &[("cloudEvents_deliverat", text("2099-01-01T00:00:00Z"))]),
            b"{}",
            "`deliverat`",
        ),
        (
            binary("9", &[("cloudEvents_source", text(&format!("/{}/api", namespace(&env)?)))]),
            b"{}",
            "is a source of the host",
        ),
        (binary("5", &[]).with_content_encoding("br".into()), b"{}", "content-encoding `br`"),
        (binary("6", &[]).with_content_encoding("gzip".into()), b"{}", "content-encoding `gzip`"),
        (typed("application/cloudevents+json; charset=utf-16"), b"{}", "charset `utf-16`"),
        (binary("7", &[]), &large, "http.body_max_bytes"),
        (binary("8", &[]), b"not JSON", "not JSON"),
    ];
    for (properties, body, _) in &refused {
        outsider.publish(body, properties.clone()).await?;
    }
    let items = dead_letters(&host, refused.len()).await?;
    assert_eq!(items.len(), refused.len(), "{items:?}");
    for (_, _, expected) in &refused {
        let told = items
            .iter()
            .any(|item| item["message"].as_str().is_some_and(|message| message.contains(expected)));
        assert!(told, "no dead letter says {expected}: {items:?}");
    }
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_event_under_a_known_id_is_dead_lettered() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    // A repetition is silent, whatever its order of keys; other contents are not.
    for body in [&br#"{"a":1,"b":2}"#[..], br#"{"b":2, "a":1}"#, br#"{"a":1,"b":3}"#] {
        outsider.publish(body, binary("same", &[])).await?;
    }
    let namespace = host.client.get("/events/same").await?.1;
    let found = eventually("a dead letter", || async {
        let items = host.client.get_all("/dead-letters?limit=200").await?;
        Ok((!items.is_empty()).then_some(items))
    })
    .await?;
    assert_eq!(found.len(), 1, "{found:?} {namespace}");
    let (_, dead_letter) = host.client.get(&format!("/dead-letters/{}", found[0]["id"])).await?;
    assert_eq!(
        (&dead_letter["code"], &dead_letter["data"]),
        (&json!("event-conflict"), &json!({ "a": 1, "b": 3 })),
        "{dead_letter}"
    );
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identical_unreadable_messages_have_a_dead_letter_each() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    for _ in 0..20 {
        outsider.publish(b"not JSON", binary("1", &[])).await?;
    }
    assert_eq!(dead_letters(&host, 20).await?.len(), 20);
    host.stop().await?;
    // Nothing of them comes back.
    let host = env.start_consuming().await?;
    outsider.publish(b"not JSON", binary("2", &[])).await?;
    assert_eq!(dead_letters(&host, 21).await?.len(), 21);
    outsider.close().await?;
    host.stop().await
}

async fn event_of_an_unknown_order_belongs_to_none(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let order = json!({ "order_id": "known", "items": ["Book"], "total": 1 });
    let (status, answer) = host.client.post("/orders", &order).await?;
    assert!(status.is_success(), "{answer}");
    let mut ids = Vec::new();
    for (order, expected) in [("known", json!("order/known")), ("unknown", Value::Null)] {
        let id = format!("http-{order}");
        let batch = json!([{ "specversion": "1.0", "id": id, "source": "/desk",
            "type": "desk.note", "subject": order, "data": {} }]);
        let response = reqwest::Client::new()
            .post(format!("{}/events", host.client.url))
            .header("content-type", "application/cloudevents-batch+json")
            .body(batch.to_string())
            .send()
            .await?;
        assert!(response.status().is_success(), "{}", response.text().await?);
        ids.push((id, expected));
    }
    if backend == Backend::Servers {
        let outsider = Outsider::connect(&env).await?;
        for (order, expected) in [("known", json!("order/known")), ("unknown", Value::Null)] {
            let id = format!("amqp-{order}");
            let subject = AMQPValue::LongString(order.into());
            outsider.publish(b"{}", binary(&id, &[("cloudEvents_subject", subject)])).await?;
            ids.push((id, expected));
        }
        outsider.close().await?;
    }
    for (id, expected) in ids {
        let event = logged(&host, &id).await?;
        assert_eq!(event["subject_key"], expected, "{event}");
        // What the stage emits belongs to the same order.
        let emitted = eventually("an emitted event", || async {
            let events = host.client.get_all(&format!("/events?correlation={id}&limit=50")).await?;
            Ok(events.into_iter().find(|event| event["id"] != json!(id)))
        })
        .await?;
        assert_eq!(emitted["subject_key"], expected, "{emitted}");
    }
    host.stop().await
}

on_both_back_ends![event_of_an_unknown_order_belongs_to_none];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_message_can_be_seen_and_repaired() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    let forged = [("cloudEvents_source", AMQPValue::LongString("/postrider/x".into()))];
    let properties = binary("1", &forged).with_message_id("m-1".into());
    outsider.publish(b"{}", properties).await?;
    let found = dead_letters(&host, 1).await?;
    let id = &found[0]["id"];
    let (_, dead_letter) = host.client.get(&format!("/dead-letters/{id}")).await?;
    let attributes = &dead_letter["event"]["attributes"];
    assert!(attributes["amqpheaders"].as_str().is_some_and(|text| text.contains("/postrider/x")));
    assert!(attributes["amqpproperties"].as_str().is_some_and(|text| text.contains("m-1")));
    assert_eq!(dead_letter["data"], json!({}));
    let replay = format!("/dead-letters/{id}/replay");
    for body in [json!({}), json!({ "data": {} }), json!({ "type": "order.unknown" })] {
        let (status, problem) = host.client.post(&replay, &body).await?;
        assert_eq!(status.as_u16(), 409, "{problem}");
    }
    for body in [json!({ "type": "postrider.x" }), json!({ "type": "a", "edit": {} })] {
        let (status, problem) = host.client.post(&replay, &body).await?;
        assert_eq!(status.as_u16(), 422, "{problem}");
    }
    let (status, answer) = host.client.post(&replay, &json!({ "type": "desk.note" })).await?;
    assert!(status.is_success(), "{answer}");
    let done = "SELECT count(*) FROM deliveries WHERE status = 'done'";
    eventually("the repaired event", || async {
        Ok((env.query_count(done).await? == 1).then_some(()))
    })
    .await?;
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_message_is_delivered_when_it_is_due() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{DESK}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(&env).await?;
    let due = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(2);
    let later = due + Duration::from_hours(24);
    for (id, due) in [("soon", due), ("later", later)] {
        let due = AMQPValue::Timestamp(due.as_secs());
        outsider.publish(b"{}", binary(id, &[("cloudEvents_deliverat", due)])).await?;
    }
    for (id, due) in [("soon", due), ("later", later)] {
        let event = logged(&host, id).await?;
        assert_eq!(event["due_at_ms"], due.as_secs() * 1_000, "{event}");
        assert_eq!(event["attributes"], json!({}), "{event}");
    }
    let settled = "SELECT coalesce(min(d.settled_ms - e.due_ms), -1) FROM deliveries d \
                   JOIN events e ON e.seq = d.event_seq WHERE d.status = 'done'";
    let waited = eventually("the first of them to be processed", || async {
        Ok(Some(env.query_count(settled).await?).filter(|waited| *waited >= 0))
    })
    .await?;
    assert!(waited < 60_000, "{waited}");
    let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    assert_eq!(env.query_count(open).await?, 1, "the other one waits");
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_events_are_processed_and_unreadable_ones_are_dead_lettered() -> Result<()> {
    let allow = "ingress.allow = [\"#\", \"product.stocked\"]\n";
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{allow}{AMPLE_STOCK}")).await?;
    let host = env.start_consuming().await?;
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
