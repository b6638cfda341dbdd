//! Consuming one queue on a channel of its own, with the prefetch set before the first message.
//!
//! Bounds: the broker delivers at most `prefetch` unacknowledged messages. An unreadable message is
//! rejected, and comes back with its reason through the stage's dead-letter queue.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};

use super::link::{Link, within};
use super::message::{self, Ingress, Unreadable};
use crate::broker::{
    Acker, BrokerError, Consumer, Incoming, RejectedConsumer, RejectedMessage, Sender,
};
use crate::domain::clock::Clock;
use crate::domain::cloud_events::ingress::IngressSettings;

/// Prefetch of dead-letter queues: rejected messages are rare, and may be large.
const DEAD_PREFETCH: u16 = 1;

/// What messages of other programs are checked against, and what they get.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) expiry_ms: u64,
    pub(super) settings: Arc<IngressSettings>,
}

impl Reading {
    fn ingress(&self) -> Ingress<'_> {
        let rules = self.settings.rules(self.clock.now_ms());
        let body_max_bytes = self.settings.body_max_bytes;
        Ingress { rules, body_max_bytes, expiry_ms: self.expiry_ms }
    }
}

/// A consuming channel and its unacknowledged messages.
struct Subscription {
    consumer: lapin::Consumer,
    acker: Arc<RabbitAcker>,
}

async fn subscribe(
    link: &Link,
    queue: ShortString,
    prefetch: u16,
) -> Result<Subscription, BrokerError> {
    let channel = link.channel().await?;
    within(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let tag = ShortString::default();
    let consumer = within(channel.basic_consume(
        queue,
        tag,
        BasicConsumeOptions::default(),
        FieldTable::default(),
    ))
    .await?;
    Ok(Subscription { consumer, acker: Arc::new(RabbitAcker { channel, open: Mutex::default() }) })
}

impl Subscription {
    /// Waits for one message, then adds those that are ready. None when the channel or the consumer is
    /// gone.
    async fn receive(&mut self, max: usize) -> Option<Vec<Delivery>> {
        let mut taken = vec![self.next().await?];
        while taken.len() < max {
            match self.consumer.next().now_or_never() {
                Some(Some(Ok(delivery))) => taken.push(delivery),
                // Messages received before the end are dropped: the broker delivers them again.
                Some(Some(Err(_)) | None) => return None,
                None => break,
            }
        }
        let mut open = self.acker.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend(taken.iter().map(|delivery| (delivery.delivery_tag, false)));
        drop(open);
        Some(taken)
    }

    async fn next(&mut self) -> Option<Delivery> {
        match self.consumer.next().await? {
            Ok(delivery) => Some(delivery),
            Err(error) => {
                tracing::debug!(%error, "consumer ended");
                None
            }
        }
    }
}

pub(super) struct RabbitConsumer {
    subscription: Subscription,
    reading: Reading,
}

impl RabbitConsumer {
    pub(super) async fn open(
        link: &Link,
        queue: ShortString,
        prefetch: u32,
        reading: Reading,
    ) -> Result<Self, BrokerError> {
        let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX);
        Ok(Self { subscription: subscribe(link, queue, prefetch).await?, reading })
    }

    async fn read(&self, delivery: Delivery) -> Option<Incoming> {
        let deliveries = delivery_count(&delivery.properties) + 1;
        let tag = delivery.delivery_tag;
        match message::decode(&delivery.properties, delivery.data, self.reading.ingress()) {
            Ok(decoded) => Some(Incoming {
                envelope: decoded.envelope,
                round: decoded.round,
                attempt: decoded.attempt,
                // Sent to this queue, through no exchange: a retry or a refill.
                redelivered: delivery.redelivered || delivery.exchange.as_str().is_empty(),
                deliveries,
                sender: decoded.sender,
                received: Instant::now(),
                tag,
            }),
            Err(error) => {
                let error = with_source(&error);
                tracing::warn!(%error, "unreadable message is dead-lettered");
                self.subscription.acker.reject(tag).await;
                None
            }
        }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn receive(&mut self, max: usize) -> Option<Vec<Incoming>> {
        loop {
            let mut messages = Vec::new();
            for delivery in self.subscription.receive(max).await? {
                messages.extend(self.read(delivery).await);
            }
            if !messages.is_empty() {
                return Some(messages);
            }
        }
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.subscription.acker) as Arc<dyn Acker>
    }
}

/// Consumes a stage's dead-letter queue.
pub(super) struct RejectedRabbitConsumer {
    subscription: Subscription,
    reading: Reading,
}

impl RejectedRabbitConsumer {
    pub(super) async fn open(
        link: &Link,
        queue: ShortString,
        reading: Reading,
    ) -> Result<Self, BrokerError> {
        Ok(Self { subscription: subscribe(link, queue, DEAD_PREFETCH).await?, reading })
    }
}

#[async_trait]
impl RejectedConsumer for RejectedRabbitConsumer {
    async fn receive(&mut self) -> Option<Vec<RejectedMessage>> {
        let deliveries = self.subscription.receive(usize::from(DEAD_PREFETCH)).await?;
        let ingress = self.reading.ingress();
        let read = |delivery: Delivery| {
            let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
            match message::decode(&delivery.properties, delivery.data.clone(), ingress) {
                Ok(decoded) => RejectedMessage {
                    envelope: decoded.envelope,
                    round: decoded.round,
                    attempt: decoded.attempt,
                    sender: decoded.sender,
                    unreadable: None,
                    reason: dead_letter_reason(&delivery.properties),
                    redelivered,
                    tag,
                },
                Err(Unreadable::Unsendable { decoded, why }) => RejectedMessage {
                    envelope: decoded.envelope,
                    round: decoded.round,
                    attempt: decoded.attempt,
                    sender: decoded.sender,
                    unreadable: Some(why),
                    reason: dead_letter_reason(&delivery.properties),
                    redelivered,
                    tag,
                },
                Err(error) => RejectedMessage {
                    envelope: Arc::new(message::stand_in(
                        &delivery.properties,
                        &delivery.data,
                        ingress,
                    )),
                    round: 1,
                    attempt: 1,
                    sender: Sender::OtherProgram { due_at_ms: None },
                    unreadable: Some(with_source(&error)),
                    reason: dead_letter_reason(&delivery.properties),
                    redelivered,
                    tag,
                },
            }
        };
        Some(deliveries.into_iter().map(read).collect())
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.subscription.acker) as Arc<dyn Acker>
    }
}

/// An error and what caused it, in one line.
fn with_source(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Deliveries of a message before this one, as a quorum queue counts them.
fn delivery_count(properties: &BasicProperties) -> u32 {
    let count =
        properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    count.and_then(message::unsigned).and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

/// Why the broker dead-lettered a message: `rejected`, `delivery_limit`, ….
fn dead_letter_reason(properties: &BasicProperties) -> String {
    let reason = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get("x-first-death-reason"));
    match reason {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => "unknown".to_owned(),
    }
}

struct RabbitAcker {
    channel: Channel,
    /// Tags that the broker has not received an acknowledgement for, and whether they are settled.
    open: Mutex<BTreeMap<u64, bool>>,
}

impl RabbitAcker {
    /// Marks tags as settled. Returns the highest tag up to which all are settled, and the settled ones
    /// after it.
    fn settle(&self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for tag in tags {
            open.entry(*tag).and_modify(|settled| *settled = true);
        }
        let mut front = None;
        while let Some(entry) = open.first_entry().filter(|entry| *entry.get()) {
            front = Some(*entry.key());
            entry.remove();
        }
        let behind: Vec<u64> =
            tags.iter().copied().filter(|tag| open.remove(tag).is_some()).collect();
        (front, behind)
    }

    async fn reject(&self, tag: u64) {
        self.forget(&[tag]);
        let rejected = self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await;
        log(rejected);
    }

    fn forget(&self, tags: &[u64]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for tag in tags {
            open.remove(tag);
        }
    }
}

/// A lost acknowledgement does no harm: the broker delivers the message again, and the store
/// recognises the delivery.
fn log(result: lapin::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "failed to acknowledge");
    }
}

#[async_trait]
impl Acker for RabbitAcker {
    async fn ack(&self, tags: &[u64]) {
        let (front, behind) = self.settle(tags);
        if let Some(front) = front {
            log(self.channel.basic_ack(front, BasicAckOptions { multiple: true }).await);
        }
        for tag in behind {
            log(self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).await);
        }
    }

    async fn requeue(&self, tags: &[u64]) {
        self.forget(tags);
        for tag in tags {
            log(self
                .channel
                .basic_nack(*tag, BasicNackOptions { multiple: false, requeue: true })
                .await);
        }
    }
}
