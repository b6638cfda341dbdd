//! Consuming one queue on a channel of its own, with the prefetch set before the first message.
//!
//! Bounds: the broker delivers at most `prefetch` unacknowledged messages; [`window`](super::window)
//! chooses how many fit into the bytes that may be held, and the consumer is opened again with that
//! many. A message that is unreadable, or claims to be a host's and is not, is rejected, and comes back
//! with its reason through the stage's dead-letter queue.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::Notify;

use super::keys::MessageKeys;
use super::link::{Link, within};
use super::message::{self, Decoded, Ingress, Trust, Unreadable};
use super::origin::{DeadLettering, Origin, UNKNOWN};
use super::signature::{Destination, key_id};
use super::topology::Names;
use super::window::{Step, Window};
use crate::broker::{
    Acker, BrokerError, Capacity, Consumer, Forgery, Incoming, RejectedConsumer, RejectedMessage,
    Sender,
};
use crate::domain::clock::Clock;
use crate::domain::cloud_events::ingress::IngressSettings;
use crate::domain::encryption::Encryption;
use crate::domain::steps::COSTS;

/// Prefetch of dead-letter queues: rejected messages are rare, and may be large.
const DEAD_PREFETCH: u32 = 1;

/// What messages are checked against, and what those of other programs get.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) expiry_ms: u64,
    pub(super) settings: Arc<IngressSettings>,
    pub(super) keys: Arc<MessageKeys>,
    pub(super) encryption: Arc<Encryption>,
    pub(super) names: Names,
}

impl Reading {
    fn ingress(&self) -> Ingress<'_> {
        let rules = self.settings.rules(self.clock.now_ms());
        let body_max_bytes = self.settings.body_max_bytes;
        Ingress { rules, body_max_bytes, expiry_ms: self.expiry_ms }
    }

    /// Learns the keys that messages name, so that they can be judged.
    async fn learn_keys(&self, deliveries: &[Delivery]) {
        self.keys.learn(deliveries.iter().filter_map(|one| key_id(&one.properties))).await;
    }

    /// Decodes a message to a stage. One of a host must have come from `origin` as hosts send it.
    fn decode(
        &self,
        stage: &str,
        origin: Origin<'_>,
        message: (&BasicProperties, Vec<u8>),
    ) -> Result<Decoded, Unreadable> {
        let decoded = self.decode_from_anywhere(stage, message)?;
        match origin.detour(&decoded, &self.names) {
            None => Ok(decoded),
            Some(why) => Err(Unreadable::Forged { claimed: Some(Box::new(decoded)), why }),
        }
    }

    fn decode_from_anywhere(
        &self,
        stage: &str,
        (properties, body): (&BasicProperties, Vec<u8>),
    ) -> Result<Decoded, Unreadable> {
        let signers = self.keys.signers();
        let place = Destination { namespace: self.names.namespace(), stage };
        let trust = Trust { signers: &signers, place, encryption: &self.encryption };
        message::decode(properties, body, self.ingress(), trust)
    }

    /// A message of a stage's dead-letter queue, which only the broker fills.
    fn read_rejected(&self, stage: &str, delivery: &Delivery) -> RejectedMessage {
        let Delivery { properties, data, redelivered, delivery_tag: tag, .. } = delivery;
        let message = (properties, data.clone());
        let (origin, reason, decoded) = match DeadLettering::of(delivery, &self.names, stage) {
            Some(DeadLettering { origin, reason }) => {
                (origin, reason, self.decode(stage, origin, message))
            }
            None => {
                let decoded = self.decode_from_anywhere(stage, message);
                let forged = decoded.and_then(|decoded| {
                    let is_claim = decoded.sender == Sender::Host;
                    let claimed = is_claim.then(|| Box::new(decoded));
                    let why = "another program sent it to the dead-letter queue".to_owned();
                    Err(Unreadable::Forged { claimed, why })
                });
                (Origin::of(delivery), UNKNOWN, forged)
            }
        };
        let (decoded, unreadable, forged) = match decoded {
            Ok(decoded) => (decoded, None, None),
            Err(Unreadable::Unsendable { decoded, why }) => (*decoded, Some(why), None),
            Err(error) => {
                let ingress = self.ingress();
                let substitute = message::stand_in(properties, data, origin, ingress, &error);
                let substitute = Decoded::substitute(substitute);
                match error {
                    Unreadable::Forged { claimed, why } => {
                        let claimed = claimed.map(|claimed| claimed.attempt());
                        (substitute, None, Some(Forgery { why, claimed }))
                    }
                    error => (substitute, Some(with_source(&error)), None),
                }
            }
        };
        let Decoded { envelope, round, attempt, sender, .. } = decoded;
        let (redelivered, tag, reason) = (*redelivered, *tag, reason.to_owned());
        RejectedMessage {
            envelope,
            round,
            attempt,
            sender,
            unreadable,
            forged,
            reason,
            redelivered,
            tag,
        }
    }
}

/// A consuming channel and its unacknowledged messages.
struct Subscription {
    queue: ShortString,
    window: Window,
    /// None while it is closed.
    consumer: Option<lapin::Consumer>,
    /// What a consumer had received when it was closed.
    received: VecDeque<Delivery>,
    acker: Arc<RabbitAcker>,
}

/// Opens a channel on a queue; messages of at most `expected` bytes are expected.
async fn subscribe(
    link: &Link,
    queue: ShortString,
    prefetch: Capacity,
    expected: u64,
) -> Result<Subscription, BrokerError> {
    let channel = link.channel().await?;
    let mut subscription = Subscription {
        queue,
        window: Window::new(prefetch, expected),
        consumer: None,
        received: VecDeque::new(),
        acker: Arc::new(RabbitAcker { channel, open: Mutex::default(), settled: Notify::new() }),
    };
    if let Step::Open(prefetch) = subscription.window.next(Capacity::NONE) {
        subscription.open(prefetch).await?;
    }
    Ok(subscription)
}

impl Subscription {
    /// Opens a consumer that receives at most `prefetch` messages at a time.
    async fn open(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        let (queue, tag) = (self.queue.clone(), ShortString::default());
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let channel = &self.acker.channel;
        within(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        self.consumer = Some(within(channel.basic_consume(queue, tag, options, arguments)).await?);
        Ok(())
    }

    /// Closes the consumer and keeps what it received.
    async fn close(&mut self) -> Result<(), BrokerError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        let options = BasicCancelOptions::default();
        within(self.acker.channel.basic_cancel(consumer.tag(), options)).await?;
        while let Some(Ok(delivery)) = consumer.next().await {
            self.received.push_back(delivery);
        }
        Ok(())
    }

    /// Follows the window until a message may be received.
    async fn prepare(&mut self) -> Result<(), BrokerError> {
        while self.received.is_empty() {
            match self.window.next(self.acker.held()) {
                Step::Receive => break,
                Step::Open(prefetch) => {
                    self.close().await?;
                    self.open(prefetch).await?;
                }
                Step::Close => self.close().await?,
                Step::Wait => self.acker.settled.notified().await,
            }
        }
        Ok(())
    }

    /// Waits for one message, then adds those that are ready. None when the channel or the consumer is
    /// gone. Not to be called again after it was dropped before it returned, unless it only waited.
    async fn receive(&mut self, max: usize) -> Option<Vec<Delivery>> {
        if let Err(error) = self.prepare().await {
            tracing::debug!(%error, "consumer ended");
            return None;
        }
        let mut taken = match self.received.pop_front() {
            Some(delivery) => vec![delivery],
            None => vec![next(self.consumer.as_mut()?).await?],
        };
        while taken.len() < max {
            if let Some(delivery) = self.received.pop_front() {
                taken.push(delivery);
                continue;
            }
            let Some(consumer) = &mut self.consumer else { break };
            match consumer.next().now_or_never() {
                Some(Some(Ok(delivery))) => taken.push(delivery),
                // Messages received before the end are dropped: the broker delivers them again.
                Some(Some(Err(_)) | None) => return None,
                None => break,
            }
        }
        let sizes: Vec<(u64, u64)> = taken
            .iter()
            .map(|delivery| (delivery.delivery_tag, message::bytes(delivery)))
            .collect();
        for (_, bytes) in &sizes {
            tracing::trace!(target: COSTS, amqp_delivered = 1_u64, amqp_bytes = bytes);
            self.window.receive(*bytes);
        }
        self.acker.hold(sizes);
        Some(taken)
    }
}

async fn next(consumer: &mut lapin::Consumer) -> Option<Delivery> {
    match consumer.next().await? {
        Ok(delivery) => Some(delivery),
        Err(error) => {
            tracing::debug!(%error, "consumer ended");
            None
        }
    }
}

pub(super) struct RabbitConsumer {
    subscription: Subscription,
    stage: Arc<str>,
    reading: Reading,
}

impl RabbitConsumer {
    pub(super) async fn open(
        link: &Link,
        stage: &Arc<str>,
        prefetch: Capacity,
        reading: Reading,
    ) -> Result<Self, BrokerError> {
        let expected = reading.settings.body_max_bytes as u64;
        let queue = reading.names.queue(stage);
        let subscription = subscribe(link, queue, prefetch, expected).await?;
        Ok(Self { subscription, stage: Arc::clone(stage), reading })
    }

    async fn read(&self, delivery: Delivery) -> Option<Incoming> {
        let deliveries = delivery_count(&delivery.properties) + 1;
        let tag = delivery.delivery_tag;
        let Delivery { properties, data, exchange, routing_key, redelivered, .. } = delivery;
        let origin = Origin { exchange: exchange.as_str(), routing_key: routing_key.as_str() };
        match self.reading.decode(&self.stage, origin, (&properties, data)) {
            Ok(decoded) => Some(Incoming {
                envelope: decoded.envelope,
                round: decoded.round,
                attempt: decoded.attempt,
                // Sent to this queue, through no exchange: a retry or a refill.
                redelivered: redelivered || origin.exchange.is_empty(),
                deliveries,
                sender: decoded.sender,
                received: Instant::now(),
                tag,
            }),
            Err(error) => {
                let error = with_source(&error);
                tracing::warn!(stage = %self.stage, %error, "message is dead-lettered");
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
            let deliveries = self.subscription.receive(max).await?;
            self.reading.learn_keys(&deliveries).await;
            for delivery in deliveries {
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
    stage: Arc<str>,
    reading: Reading,
}

impl RejectedRabbitConsumer {
    pub(super) async fn open(
        link: &Link,
        stage: &Arc<str>,
        reading: Reading,
    ) -> Result<Self, BrokerError> {
        let prefetch = Capacity { messages: DEAD_PREFETCH, ..Capacity::UNBOUNDED };
        let queue = reading.names.dead_queue(stage);
        let subscription = subscribe(link, queue, prefetch, 1).await?;
        Ok(Self { subscription, stage: Arc::clone(stage), reading })
    }
}

#[async_trait]
impl RejectedConsumer for RejectedRabbitConsumer {
    async fn receive(&mut self) -> Option<Vec<RejectedMessage>> {
        let deliveries = self.subscription.receive(DEAD_PREFETCH as usize).await?;
        self.reading.learn_keys(&deliveries).await;
        let read = |delivery: &Delivery| self.reading.read_rejected(&self.stage, delivery);
        Some(deliveries.iter().map(read).collect())
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

struct RabbitAcker {
    channel: Channel,
    open: Mutex<Open>,
    /// A message was settled.
    settled: Notify,
}

/// Messages that the broker has not received an acknowledgement for.
#[derive(Default)]
struct Open {
    /// By tag: the bytes of a message, or none once it is settled.
    messages: BTreeMap<u64, Option<u64>>,
    /// Those that are not settled.
    held: Capacity,
}

impl Open {
    fn settle(&mut self, tag: u64) {
        if let Some(bytes) = self.messages.get_mut(&tag).and_then(Option::take) {
            self.held.remove(bytes);
        }
    }
}

impl RabbitAcker {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held and not settled.
    fn held(&self) -> Capacity {
        self.open().held
    }

    /// Adds received messages: the tag and the bytes of each.
    fn hold(&self, sizes: Vec<(u64, u64)>) {
        let mut open = self.open();
        for (tag, bytes) in sizes {
            open.held.add(bytes);
            open.messages.insert(tag, Some(bytes));
        }
    }

    /// Marks tags as settled. Returns the highest tag up to which all are settled, and the settled ones
    /// after it.
    fn settle(&self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        let mut open = self.open();
        for tag in tags {
            open.settle(*tag);
        }
        let mut front = None;
        while let Some(entry) = open.messages.first_entry().filter(|entry| entry.get().is_none()) {
            front = Some(*entry.key());
            entry.remove();
        }
        let behind: Vec<u64> =
            tags.iter().copied().filter(|tag| open.messages.remove(tag).is_some()).collect();
        drop(open);
        self.settled.notify_one();
        (front, behind)
    }

    async fn reject(&self, tag: u64) {
        self.forget(&[tag]);
        let rejected = self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await;
        log(rejected);
    }

    fn forget(&self, tags: &[u64]) {
        let mut open = self.open();
        for tag in tags {
            open.settle(*tag);
            open.messages.remove(tag);
        }
        drop(open);
        self.settled.notify_one();
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
        let acks = behind.len() + usize::from(front.is_some());
        tracing::trace!(target: COSTS, amqp_acks = acks);
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
