//! Generated messages of other programs.

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::{Run, one_of, text};
use crate::support::harness::TestEnv;
use crate::support::servers::amqp_url;

/// Messages under way at a time.
const CONCURRENT: usize = 64;

const CONTENT_TYPES: [&str; 9] = [
    "application/json",
    "Application/JSON; charset=utf-8",
    "application/json; charset=latin1",
    "application/cloudevents+json",
    "APPLICATION/CloudEvents+JSON",
    "application/cloudevents-batch+json",
    "text/plain",
    "application/octet-stream",
    "",
];
const ENCODINGS: [&str; 5] = ["gzip", "br", "identity", "UTF-8", "x"];
/// Types that one of the shipped stages consumes, and one that none does. A message in two queues
/// that cannot be read would become two events.
const TYPES: [&str; 6] = [
    "order.created",
    "payment.authorized",
    "product.stocked",
    "carrier.collected",
    "payment.declined",
    "desk.note",
];

/// A connection of another program.
pub(super) struct Publisher {
    connection: Connection,
    channel: Channel,
    exchange: String,
    published: u64,
}

struct Message {
    routing_key: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Publisher {
    /// None when the environment has no broker that others can reach.
    pub(super) async fn connect(env: &TestEnv) -> Result<Option<Self>> {
        let Some(servers) = &env.servers else { return Ok(None) };
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Some(Self { connection, channel, exchange: servers.exchange(), published: 0 }))
    }

    /// Publishes `count` messages. Those that a queue took become one event each; the broker returns
    /// the others.
    pub(super) async fn publish(&mut self, run: &mut Run, count: u32) -> Result<()> {
        if !self.connection.status().connected() {
            anyhow::bail!("the broker closed the connection of the test");
        }
        let messages: Vec<Message> = (0..count)
            .map(|_| {
                self.published += 1;
                message(&mut run.rng, self.published)
            })
            .collect();
        let sent = messages.into_iter().map(|Message { routing_key, properties, body }| {
            let (channel, exchange) = (&self.channel, self.exchange.as_str());
            async move {
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                let (exchange, key) = (exchange.into(), routing_key.into());
                channel.basic_publish(exchange, key, options, &body, properties).await?.await
            }
        });
        let confirmed: Vec<lapin::Result<Confirmation>> =
            futures::stream::iter(sent).buffer_unordered(CONCURRENT).collect().await;
        for confirmation in confirmed {
            match confirmation.context("a message was not taken")? {
                Confirmation::Ack(None) => run.counts.accepted += 1,
                _ => run.counts.rejected += 1,
            }
        }
        Ok(())
    }
}

fn message(rng: &mut StdRng, number: u64) -> Message {
    let id = format!("m-{number}");
    let event_type = *one_of(rng, &TYPES);
    // Unlike an id, it is never left out: no two messages are the same.
    let mut headers = FieldTable::default();
    headers.insert("number".into(), AMQPValue::LongLongInt(number as i64));
    let structured = rng.random_ratio(1, 4);
    let document = if structured {
        json!({ "specversion": "1.0", "id": id, "source": text::text(rng, "/other"),
            "type": event_type, "subject": text::text(rng, &id), "data": text::order(rng, &id) })
    } else {
        let attributes = [
            ("specversion", "1.0"),
            ("id", id.as_str()),
            ("source", "/other"),
            ("type", event_type),
            ("subject", &id),
        ];
        let prefix = *one_of(rng, &["cloudEvents_", "cloudEvents:"]);
        for (name, valid) in attributes {
            if rng.random_ratio(30, 31) {
                // An id of another message would make this one its repetition.
                let value = if name == "id" { long(&id) } else { value(rng, valid) };
                headers.insert(format!("{prefix}{name}").as_str().into(), value);
            }
        }
        for name in ["time", "zone", "TenantId", "deliverat", "traceparent"] {
            if rng.random_ratio(1, 8) {
                headers.insert(format!("{prefix}{name}").as_str().into(), value(rng, "1.0"));
            }
        }
        text::order(rng, &id)
    };
    let usual = if structured { "application/cloudevents+json" } else { "application/json" };
    let content_type = if rng.random_ratio(1, 10) { *one_of(rng, &CONTENT_TYPES) } else { usual };
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type(content_type.into())
        .with_headers(headers);
    if rng.random_ratio(1, 15) {
        let encoding: ShortString = (*one_of(rng, &ENCODINGS)).into();
        properties = properties.with_content_encoding(encoding);
    }
    let routing_key = if rng.random_ratio(1, 20) { "desk.unknown" } else { event_type };
    Message { routing_key: routing_key.to_owned(), properties, body: text::bytes(rng, &document) }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// A header that is mostly the text that it should be.
fn value(rng: &mut StdRng, valid: &str) -> AMQPValue {
    match rng.random_range(0..40) {
        0 => AMQPValue::ShortShortInt(-7),
        1 => AMQPValue::ShortInt(-300),
        2 => AMQPValue::LongUInt(70_000),
        3 => AMQPValue::LongLongInt(i64::MIN),
        4 => AMQPValue::Double(1.5),
        // RabbitMQ closes a connection that sends a number that is none.
        5 => AMQPValue::Float(0.1),
        6 => AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1_234 }),
        7 => AMQPValue::Timestamp(1_700_000_000),
        8 => AMQPValue::ByteArray(ByteArray::from(&b"\xff\x00"[..])),
        9 => AMQPValue::FieldTable(FieldTable::default()),
        10 => AMQPValue::FieldArray(FieldArray::default()),
        11 => AMQPValue::Void,
        12 => AMQPValue::Boolean(true),
        13 => AMQPValue::LongString(LongString::from(&b"\xff\xfe"[..])),
        14 => long(&"x".repeat(rng.random_range(1_000..20_000))),
        _ => long(&text::text(rng, valid)),
    }
}
