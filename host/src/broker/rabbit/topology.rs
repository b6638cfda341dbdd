//! Names and arguments of exchanges and queues: permanent once published.
//!
//! The arguments are few and never tunable, because `RabbitMQ` refuses to declare a queue again
//! with other ones (406). Bounded by `x-delivery-limit`: a last resort against messages that kill
//! the host. Expiry is the host's.

use std::sync::Arc;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind, Queue};

use super::link::{Link, within};
use crate::broker::{Binding, BrokerError};

/// Deliveries of one message to consumers that crashed, before the broker dead-letters it.
const DELIVERY_LIMIT: i64 = 100;

/// Everything is named `<namespace>.…`.
#[derive(Debug, Clone)]
pub(super) struct Names {
    namespace: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The topic exchange that every event is published to.
    pub(super) fn events(&self) -> ShortString {
        short(format!("{}.events", self.namespace))
    }

    /// Whether it is that exchange.
    pub(super) fn is_events(&self, exchange: &str) -> bool {
        exchange.strip_suffix(".events") == Some(self.namespace.as_str())
    }

    /// The exchange that dead-lettered messages go through.
    pub(super) fn dead(&self) -> ShortString {
        short(format!("{}.dlx", self.namespace))
    }

    /// A stage's queue.
    pub(super) fn queue(&self, stage: &str) -> ShortString {
        short(format!("{}.stage.{stage}", self.namespace))
    }

    /// The queue of messages that the broker dead-lettered for the stage.
    pub(super) fn dead_queue(&self, stage: &str) -> ShortString {
        short(format!("{}.stage.{stage}.dlq", self.namespace))
    }
}

/// Namespaces and stage names have at most 40 characters, so these names have at most 91.
fn short(name: String) -> ShortString {
    name.into()
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// Whether a stage's queue existed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Existed,
    Created,
}

/// Declares the exchanges, the stage's two queues and its bindings. Bindings are only added: other
/// hosts may need the rest.
pub(super) async fn ensure(
    link: &Link,
    names: &Names,
    binding: &Binding,
) -> Result<Found, BrokerError> {
    let stage = &*binding.stage;
    // A passive declaration of a queue that is missing closes its channel.
    let probe = link.channel().await?;
    let (found, channel) = match present(&probe, names.queue(stage)).await {
        Ok(Some(_)) => (Found::Existed, probe),
        Ok(None) => (Found::Created, link.channel().await?),
        Err(error) => return Err(BrokerError::Unavailable(error.to_string())),
    };
    exchanges(&channel, names).await?;
    queue(&channel, names.dead_queue(stage), table([("x-queue-type", text("quorum"))])).await?;
    bind(&channel, names.dead_queue(stage), names.dead(), stage).await?;
    queue(&channel, names.queue(stage), arguments(names, stage)).await?;
    for pattern in &binding.patterns {
        bind(&channel, names.queue(stage), names.events(), pattern).await?;
    }
    let _ = channel.close(200, "declared".into()).await;
    Ok(found)
}

/// Checks that a queue exists. A missing one closes the channel.
async fn present(channel: &Channel, name: ShortString) -> lapin::Result<Option<Queue>> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name, passive, FieldTable::default()).await {
        Ok(queue) => Ok(Some(queue)),
        Err(error) if soft_error(&error) == Some(AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Arguments of a stage's queue.
fn arguments(names: &Names, stage: &str) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(names.dead().as_str())),
        ("x-dead-letter-routing-key", text(stage)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
    ])
}

/// The status of a stage's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueStatus {
    /// It does not exist yet.
    Missing,
    /// It is as a host would declare it.
    Fits {
        /// Number of ready messages.
        waiting: u32,
        /// Number of consumers.
        consumers: u32,
    },
    /// A host cannot use it: the reason, and what to do.
    Refused(String),
}

/// Inspects a stage's queue without creating it.
pub(super) async fn examine(
    connection: &Connection,
    names: &Names,
    stage: &str,
) -> Result<QueueStatus, BrokerError> {
    let channel = within(connection.create_channel()).await?;
    let found = match present(&channel, names.queue(stage)).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(QueueStatus::Missing),
        Err(error) => return Ok(QueueStatus::Refused(error.to_string())),
    };
    // Declaring an existing queue changes nothing, and fails if its arguments differ.
    Ok(match queue(&channel, names.queue(stage), arguments(names, stage)).await {
        Ok(()) => {
            QueueStatus::Fits { waiting: found.message_count(), consumers: found.consumer_count() }
        }
        Err(error) => QueueStatus::Refused(error.to_string()),
    })
}

/// Declares the two exchanges.
pub(super) async fn exchanges(channel: &Channel, names: &Names) -> Result<(), BrokerError> {
    exchange(channel, names.events(), ExchangeKind::Topic).await?;
    exchange(channel, names.dead(), ExchangeKind::Direct).await
}

/// Deletes the queues of these stages, and the exchanges.
pub(super) async fn delete(
    link: &Link,
    names: &Names,
    stages: &[Arc<str>],
) -> Result<(), BrokerError> {
    let channel = link.channel().await?;
    for stage in stages {
        for queue in [names.queue(stage), names.dead_queue(stage)] {
            within(channel.queue_delete(queue, QueueDeleteOptions::default())).await?;
        }
    }
    for exchange in [names.events(), names.dead()] {
        within(channel.exchange_delete(exchange, ExchangeDeleteOptions::default())).await?;
    }
    Ok(())
}

async fn exchange(
    channel: &Channel,
    name: ShortString,
    kind: ExchangeKind,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared =
        channel.exchange_declare(name.clone(), kind, options, FieldTable::default()).await;
    declared.map_err(|error| explain(&error, "exchange", &name))
}

async fn queue(
    channel: &Channel,
    name: ShortString,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.clone(), options, arguments).await;
    declared.map(|_| ()).map_err(|error| explain(&error, "queue", &name))
}

pub(super) async fn bind(
    channel: &Channel,
    queue: ShortString,
    exchange: ShortString,
    pattern: &str,
) -> Result<(), BrokerError> {
    let key = ShortString::try_new(pattern)
        .map_err(|error| BrokerError::Refused(format!("`{pattern}` cannot be bound: {error}")))?;
    within(channel.queue_bind(
        queue,
        exchange,
        key,
        QueueBindOptions::default(),
        FieldTable::default(),
    ))
    .await
}

/// Unbinding what is not bound is no error.
pub(super) async fn unbind(
    channel: &Channel,
    queue: ShortString,
    exchange: ShortString,
    pattern: &str,
) -> Result<(), BrokerError> {
    let key = ShortString::try_new(pattern)
        .map_err(|error| BrokerError::Refused(format!("`{pattern}` cannot be unbound: {error}")))?;
    within(channel.queue_unbind(queue, exchange, key, FieldTable::default())).await
}

/// The error for which the broker closed a channel; none if it was another one.
pub(super) fn soft_error(error: &lapin::Error) -> Option<AMQPSoftError> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    match error.kind() {
        AMQPErrorKind::Soft(soft) => Some(soft.clone()),
        AMQPErrorKind::Hard(_) => None,
    }
}

/// A 406 names the argument that differs, but not what to do about it.
fn explain(error: &lapin::Error, what: &str, name: &ShortString) -> BrokerError {
    match soft_error(error) {
        Some(AMQPSoftError::PRECONDITIONFAILED) => BrokerError::Refused(format!(
            "{error}. The {what} `{name}` exists and was declared otherwise, by an older \
             Postrider or by hand. Delete it while the hosts \
             are stopped (`rabbitmqctl delete_queue {name}` for a queue); it is declared again \
             and refilled from the store"
        )),
        Some(AMQPSoftError::ACCESSREFUSED) => BrokerError::Refused(format!(
            "{error}. The user of broker.url needs configure, write and read permission on `{name}`"
        )),
        _ => BrokerError::Unavailable(error.to_string()),
    }
}
