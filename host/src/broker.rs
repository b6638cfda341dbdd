//! The broker: queues of stages, bound to the event types they consume.
//!
//! A broker saves work and keeps messages in order; the store guarantees that none is lost. So a
//! queue may lose messages as long as it reports a gap ([`Broker::take_gaps`]): the reconciler
//! refills it from the open deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::domain::event::Envelope;
use crate::store::{Direct, StoreError};

#[cfg(test)]
pub mod conformance;
pub mod destination;
pub mod embedded;
#[cfg(feature = "rabbitmq")]
pub mod rabbit;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached: retry later.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// No queue receives the message although a known stage consumes it. The queue is declared
    /// again, then the message is sent again.
    #[error("no queue receives the message: {0}")]
    Unroutable(String),
    /// The broker refuses the call. A retry cannot help until the cause is fixed.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Sent directly to a stage's queue; none: published by its type.
    pub direct: Option<Direct>,
    /// A known stage consumes it: it is undelivered if no queue receives it.
    pub mandatory: bool,
}

/// Who published a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A host.
    Host,
    /// Another program.
    OtherProgram {
        /// When its event is due, milliseconds since 1970-01-01 UTC; none: immediately.
        due_at_ms: Option<u64>,
    },
}

impl Sender {
    /// When another program wants its event to be delivered; none: immediately.
    pub fn due_at_ms(self) -> Option<u64> {
        match self {
            Self::Host => None,
            Self::OtherProgram { due_at_ms } => due_at_ms,
        }
    }
}

/// A message as received.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Whether the message may have been delivered before, or was sent to this stage again: the store
    /// is checked before it is run.
    pub redelivered: bool,
    /// Number of times that the broker delivered it, including this one.
    pub deliveries: u32,
    /// Who published it.
    pub sender: Sender,
    /// When this host received it.
    pub received: Instant,
    /// The broker's name for this delivery.
    pub tag: u64,
}

impl Incoming {
    /// The first attempt at an event that this host hands over to its own stage.
    pub fn handed_over(tag: u64, envelope: Arc<Envelope>) -> Self {
        Self {
            envelope,
            round: 1,
            attempt: 1,
            redelivered: false,
            deliveries: 1,
            sender: Sender::Host,
            received: Instant::now(),
            tag,
        }
    }
}

/// A stage's queue and the event types that reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The stage.
    pub stage: Arc<str>,
    /// AMQP topic patterns.
    pub patterns: Vec<String>,
}

/// A message that claims to be a host's, and is not, or did not come by the way of hosts' messages.
#[derive(Debug, Clone)]
pub struct Forgery {
    /// What gives it away.
    pub why: String,
    /// What it claims to be, if that can be read. It may be true: then the message is a copy.
    pub claimed: Option<ClaimedAttempt>,
}

/// The attempt that a message claims to be.
#[derive(Debug, Clone)]
pub struct ClaimedAttempt {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Round, from 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
}

/// A message that the broker dead-lettered.
#[derive(Debug, Clone)]
pub struct RejectedMessage {
    /// The event; for an unreadable or forged message a substitute with the message's body.
    pub envelope: Arc<Envelope>,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Who published it.
    pub sender: Sender,
    /// Why it cannot be read.
    pub unreadable: Option<String>,
    /// Why it is not a host's, if it claims to be.
    pub forged: Option<Forgery>,
    /// The broker's reason.
    pub reason: String,
    /// Whether it was delivered before, to a host that did not acknowledge it.
    pub redelivered: bool,
    /// The broker's name for this delivery.
    pub tag: u64,
}

/// How many messages something may hold, or holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Their number.
    pub messages: u32,
    /// Their bytes. A larger message is held alone.
    pub bytes: u64,
}

impl Capacity {
    /// Nothing is held, or there is no room.
    pub const NONE: Self = Self { messages: 0, bytes: 0 };
    /// There is no bound.
    pub const UNBOUNDED: Self = Self { messages: u32::MAX, bytes: u64::MAX };

    /// Whether a message fits beside what is held.
    pub fn fits(self, held: Self, bytes: u64) -> bool {
        held.messages == 0
            || (held.messages < self.messages && held.bytes.saturating_add(bytes) <= self.bytes)
    }

    /// What is left of it beside what is held.
    #[must_use]
    pub fn without(self, held: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(held.messages),
            bytes: self.bytes.saturating_sub(held.bytes),
        }
    }

    /// Half of it.
    #[must_use]
    pub fn half(self) -> Self {
        Self { messages: self.messages / 2, bytes: self.bytes / 2 }
    }

    /// Whether it is at least as large as another one, in both respects.
    pub fn covers(self, other: Self) -> bool {
        self.messages >= other.messages && self.bytes >= other.bytes
    }

    /// Adds a message.
    pub fn add(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Removes a message.
    pub fn remove(&mut self, bytes: u64) {
        *self = self.without(Self { messages: 1, bytes });
    }
}

/// A queue that may miss messages published before `before_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stage.
    pub stage: Arc<str>,
    /// Milliseconds since 1970-01-01 UTC.
    pub before_ms: u64,
    /// What fits into the queue; none: it is unbounded.
    pub capacity: Option<Capacity>,
}

/// A message broker.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Declares a stage's queue and adds its bindings. If the broker is unreachable, it declares them
    /// once it is connected.
    async fn declare(&self, binding: Binding) -> Result<(), BrokerError>;
    /// Binds a stage's queue to an event type or a pattern.
    async fn bind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError>;
    /// Unbinds a stage's queue from an event type or a pattern; the queue keeps its messages.
    async fn unbind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError>;
    /// Sends messages; one result per message, in their order, once all are confirmed.
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), BrokerError>>;
    /// Consumes a declared queue, with at most `prefetch` unacknowledged messages. One consumer per
    /// stage and host.
    async fn consume(
        &self,
        stage: &Arc<str>,
        prefetch: Capacity,
    ) -> Result<Box<dyn Consumer>, BrokerError>;
    /// Consumes a stage's messages that the broker dead-lettered; none if this broker never does so.
    async fn consume_rejected(
        &self,
        stage: &Arc<str>,
    ) -> Result<Option<Box<dyn RejectedConsumer>>, BrokerError>;
    /// What operates the queues, in the terms of OpenTelemetry's messaging conventions.
    fn system(&self) -> &'static str {
        "postrider"
    }
    /// Where events of a type are published; none: they go to the queues of their stages.
    fn exchange(&self) -> Option<String> {
        None
    }
    /// The name of a stage's queue.
    fn queue(&self, stage: &str) -> String {
        stage.to_owned()
    }
    /// Queues that may have lost messages since the last call.
    fn take_gaps(&self) -> Vec<Gap>;
    /// These messages will not be published: a broker in memory reports a gap for them.
    fn missed(&self, messages: &[Outgoing]) {
        let _ = messages;
    }

    /// Waits until [`Broker::take_gaps`] returns a gap.
    async fn gap(&self);
    /// Nothing is left that the gap lacked.
    async fn refilled(&self, _gap: &Gap) {}
    /// What still fits into a stage's queue; a queue that is not bounded has room for everything.
    fn room(&self, _stage: &str) -> Capacity {
        Capacity::UNBOUNDED
    }
    /// What a stage's queue in this process holds, and may hold; none: it is elsewhere.
    fn held(&self, _stage: &str) -> Option<(Capacity, Capacity)> {
        None
    }
    /// How long the message waits that has been ready for longest, in a queue that does not hand out its
    /// messages in the order in which they came; none: it does, or no message is ready.
    fn longest_wait(&self, _stage: &str) -> Option<Duration> {
        None
    }
    /// Number of ready messages in a stage's queue.
    async fn depth(&self, stage: &str) -> Result<u64, BrokerError>;
    /// Whether other programs may consume events, so that one without a stage has to be published.
    fn has_outside_consumers(&self) -> bool;
    /// Most bytes that the data of an event may have; none: no limit is known.
    fn data_max_bytes(&self) -> Option<usize> {
        None
    }
    /// Whether hosts sign their messages, with keys that they share through the store.
    fn signs(&self) -> bool {
        false
    }
    /// Reads the keys again with which hosts sign their messages.
    async fn refresh_keys(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Waits until the broker accepts messages.
    async fn up(&self);
    /// Whether the broker responds.
    async fn ping(&self) -> Result<(), BrokerError>;
    /// Closes all connections; unacknowledged messages are delivered again.
    async fn close(&self);
}

/// One consumer of a queue. Dropping it returns unacknowledged messages to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for at least one message and returns at most `max`. None when the queue is gone.
    async fn receive(&mut self, max: usize) -> Option<Vec<Incoming>>;
    /// A handle that acknowledges.
    fn acker(&self) -> Arc<dyn Acker>;
}

/// Consumes messages that the broker dead-lettered.
///
/// It holds one message at a time, so that after an outage at most one message of each host is
/// delivered again.
#[async_trait]
pub trait RejectedConsumer: Send {
    /// Waits for messages. None when the queue is gone.
    async fn receive(&mut self) -> Option<Vec<RejectedMessage>>;
    /// A handle that acknowledges.
    fn acker(&self) -> Arc<dyn Acker>;
}

/// Acknowledges messages of one consumer.
#[async_trait]
pub trait Acker: Send + Sync {
    /// Acknowledges these messages. Unknown tags are ignored.
    async fn ack(&self, tags: &[u64]);
    /// Returns these messages to the queue, to be delivered again.
    async fn requeue(&self, tags: &[u64]);
}
