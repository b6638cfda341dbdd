//! A program that may publish to the exchange of events, or to a queue, cannot speak for a host: forged messages
//! become dead letters with the reason, copies of genuine ones change nothing, and no order notices.
//!
//! `Outsider` has the rights that these tests need: it publishes to every exchange, and receives every
//! event that hosts publish.

mod allowed;
mod copies;
mod forged;
mod keys;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::harness::{Client, TestEnv, eventually};
use crate::support::servers::{Servers, amqp_url};

/// Every event passes RabbitMQ. A payment that fails is tried again after an hour.
const CONFIG: &str = "broker.local_handover = false\n[stages.payment.retry]\nmax_attempts = 5\n\
                      initial_ms = 3600000\nmax_ms = 3600000\njitter = 0.0\n";
const SIGNATURE: &str = "postrider-signature";
const ATTEMPT: &str = "postrider-attempt";
const ROUND: &str = "postrider-round";

/// Another program with a connection to the broker.
struct Outsider {
    namespace: String,
    connection: Connection,
    channel: Channel,
    /// Receives a copy of every event.
    queue: String,
}

impl Outsider {
    async fn connect(servers: &Servers) -> Result<Self> {
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let queue = servers.receive_events(&channel, "#").await?;
        Ok(Self { namespace: servers.namespace().to_owned(), connection, channel, queue })
    }

    /// The next message that a host published of this event.
    async fn capture(&self, event_id: &str) -> Result<Delivery> {
        self.take(&self.queue, event_id).await
    }

    /// Takes messages out of a queue until it is one of this event.
    async fn take(&self, queue: &str, event_id: &str) -> Result<Delivery> {
        eventually(&format!("a message of {event_id}"), || async {
            let options = BasicGetOptions { no_ack: false };
            let Some(message) = self.channel.basic_get(queue.into(), options).await? else {
                return Ok(None);
            };
            let message = message.delivery;
            self.channel.basic_ack(message.delivery_tag, BasicAckOptions::default()).await?;
            let found = header(&message.properties, "cloudEvents_id").as_deref() == Some(event_id);
            Ok(found.then_some(message))
        })
        .await
    }

    /// Takes a message out of a queue that was sent to this stage alone; others stay, until they expire.
    async fn take_attempt(&self, queue: &str) -> Result<Delivery> {
        eventually("a message to one stage", || async {
            let options = BasicGetOptions { no_ack: false };
            let Some(message) = self.channel.basic_get(queue.into(), options).await? else {
                return Ok(None);
            };
            let message = message.delivery;
            let tag = message.delivery_tag;
            if header(&message.properties, ATTEMPT).is_some() {
                self.channel.basic_ack(tag, BasicAckOptions::default()).await?;
                return Ok(Some(message));
            }
            let again = BasicNackOptions { requeue: true, multiple: false };
            self.channel.basic_nack(tag, again).await?;
            Ok(None)
        })
        .await
    }

    async fn send(&self, to: Route<'_>, properties: BasicProperties, body: &[u8]) -> Result<()> {
        let (exchange, key) = match to {
            Route::Events(event_type) => {
                (format!("{}.events", self.namespace), event_type.to_owned())
            }
            Route::Queue(stage) => (String::new(), format!("{}.stage.{stage}", self.namespace)),
            Route::DeadQueue(stage) => {
                (String::new(), format!("{}.stage.{stage}.dlq", self.namespace))
            }
            Route::DeadExchange(stage) => (format!("{}.dlx", self.namespace), stage.to_owned()),
        };
        let options = BasicPublishOptions::default();
        let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
        self.channel.basic_publish(exchange, key, options, body, properties).await?;
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

/// Where an outsider sends a message.
#[derive(Debug, Clone, Copy)]
enum Route<'a> {
    /// To the exchange of events, with this routing key.
    Events(&'a str),
    /// Straight to a stage's queue.
    Queue(&'a str),
    /// Straight to its dead-letter queue.
    DeadQueue(&'a str),
    /// To the exchange of dead-lettered messages.
    DeadExchange(&'a str),
}

fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers().as_ref()?.inner().get(name)?.as_long_string()?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The properties with other headers; those without a value are removed.
fn with(properties: &BasicProperties, changes: &[(&str, Option<&str>)]) -> BasicProperties {
    let changes: BTreeMap<&str, Option<&str>> = changes.iter().copied().collect();
    let mut table = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if !changes.contains_key(name.as_str()) {
            table.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in changes {
        if let Some(value) = value {
            table.insert(name.into(), text(value));
        }
    }
    properties.clone().with_headers(table)
}

async fn order(client: &Client, id: &str, more: Value) -> Result<()> {
    let mut body = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 20 });
    body.as_object_mut().context("a body")?.extend(more.as_object().cloned().unwrap_or_default());
    let (status, answer) = client.post("/orders", &body).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(())
}

/// What must not change of an order: its status, its events and its deliveries.
async fn seen(client: &Client, id: &str) -> Result<Value> {
    let (_, order) = client.get(&format!("/orders/{id}")).await?;
    let deliveries: Vec<Value> = order["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            json!([one["stage"], one["status"], one["round"], one["attempt"], one["failures"]])
        })
        .collect();
    let (_, events) = client.get(&format!("/orders/{id}/events?limit=200")).await?;
    let events: Vec<&Value> =
        events["items"].as_array().into_iter().flatten().map(|event| &event["id"]).collect();
    Ok(json!({ "status": order["status"], "deliveries": deliveries, "events": events }))
}

/// All dead letters, once there are this many.
async fn dead_letters(client: &Client, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} dead letters"), || async {
        let items = client.get_all("/dead-letters?limit=200").await?;
        Ok((items.len() >= count).then_some(items))
    })
    .await
}

/// Waits until nothing is left in a stage's queues.
async fn drained(env: &TestEnv, stages: &[&str]) -> Result<()> {
    let servers = env.servers.as_ref().context("servers")?;
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for stage in stages {
        for queue in [servers.queue(stage), format!("{}.dlq", servers.queue(stage))] {
            eventually(&format!("an empty queue {queue}"), || async {
                let passive =
                    QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let found = channel
                    .queue_declare(queue.as_str().into(), passive, FieldTable::default())
                    .await?;
                Ok((found.message_count() == 0).then_some(()))
            })
            .await?;
        }
    }
    Ok(connection.close(200, "done".into()).await?)
}

/// Lets messages wait in the queue of a stage.
async fn drain(client: &Client, stage: &str) -> Result<()> {
    client.post(&format!("/stages/{stage}/drain"), &json!({})).await?;
    eventually("the drain", || async {
        Ok((client.stage(stage).await?["consumption"] == "drained").then_some(()))
    })
    .await
}
