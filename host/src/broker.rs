//! The broker: queues of stages, bound to the event types they consume.
//!
//! A broker saves work and gives order; the guarantee that nothing is lost is the store's. So a
//! queue may lose messages as long as it says so ([`Broker::take_gaps`]): the reconciler refills it
//! from the open deliveries.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::domain::event::Envelope;
use crate::store::Direct;

#[cfg(test)]
pub mod conformance;
pub mod embedded;
pub mod rabbit;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be reached: try again later.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// No queue takes the message, though one of our stages consumes it: the queue is declared
    /// again, then it is tried again.
    #[error("no queue takes the message: {0}")]
    Unroutable(String),
    /// The broker says no, and will say no again until somebody does something about it.
    #[error("the broker refuses: {0}")]
    Refused(String),
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Straight to a stage's queue; none: published by its type.
    pub direct: Option<Direct>,
    /// One of our stages consumes it: if no queue takes it, it was not delivered.
    pub mandatory: bool,
}

/// A message as received.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Replays so far, from 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Whether a copy may have been seen before: worth a look into the store before running it.
    pub redelivered: bool,
    /// Times that the broker delivered it, this one included.
    pub deliveries: u32,
    /// When this host got it.
    pub received: Instant,
    /// Names the delivery towards the broker.
    pub tag: u64,
}

/// A stage's queue and the event types that reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The stage.
    pub stage: Arc<str>,
    /// AMQP topic patterns.
    pub patterns: Vec<String>,
}

/// A message that the broker gave up on.
#[derive(Debug, Clone)]
pub struct RejectedMessage {
    /// The event; of an unreadable message one that stands for it, with the message's body.
    pub envelope: Arc<Envelope>,
    /// Replays so far, from 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Why it cannot be read.
    pub unreadable: Option<String>,
    /// Why the broker gave it up, in its words.
    pub reason: String,
    /// Names the delivery towards the broker.
    pub tag: u64,
}

/// A queue that may miss messages published before `before_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stage.
    pub stage: Arc<str>,
    /// Milliseconds since 1970-01-01 UTC.
    pub before_ms: u64,
    /// Messages the queue takes before it overflows again; none: no bound.
    pub room: Option<u32>,
}

/// A message broker.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Declares a stage's queue and adds its bindings. A broker that is not there declares when it
    /// is.
    async fn declare(&self, binding: Binding) -> Result<(), BrokerError>;
    /// Lets an event type, or a pattern, reach a stage's queue from now on.
    async fn bind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError>;
    /// Keeps an event type, or a pattern, from the stage's queue from now on; what is in the queue
    /// stays.
    async fn unbind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError>;
    /// Sends; answers in order, when each is confirmed.
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), BrokerError>>;
    /// Consumes a declared queue, with at most `prefetch` messages unacknowledged. One consumer a
    /// stage and host.
    async fn consume(
        &self,
        stage: &Arc<str>,
        prefetch: u32,
    ) -> Result<Box<dyn Consumer>, BrokerError>;
    /// Consumes what the broker gave up on for a stage; none when this broker never does.
    async fn consume_rejected(
        &self,
        stage: &Arc<str>,
    ) -> Result<Option<Box<dyn RejectedConsumer>>, BrokerError>;
    /// Queues that lost messages, or may have, since the last call.
    fn take_gaps(&self) -> Vec<Gap>;
    /// Waits until [`Broker::take_gaps`] has something.
    async fn gap(&self);
    /// Messages ready in a stage's queue.
    async fn depth(&self, stage: &str) -> Result<u64, BrokerError>;
    /// Whether other programs may listen, so that an event without a stage is worth publishing.
    fn has_outside_consumers(&self) -> bool;
    /// Waits until messages are taken.
    async fn up(&self);
    /// Whether it answers.
    async fn ping(&self) -> Result<(), BrokerError>;
    /// Closes what is open; what was not acknowledged is delivered again.
    async fn close(&self);
}

/// One consumer of a queue. Dropping it returns what was not acknowledged to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for messages; at most `max`, at least one. None when the queue is gone.
    async fn receive(&mut self, max: usize) -> Option<Vec<Incoming>>;
    /// A handle that acknowledges.
    fn acker(&self) -> Arc<dyn Acker>;
}

/// Consumes what the broker gave up on.
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
    /// These are settled. Unknown tags are ignored.
    async fn ack(&self, tags: &[u64]);
    /// These go back to the queue, to be delivered again.
    async fn requeue(&self, tags: &[u64]);
}
