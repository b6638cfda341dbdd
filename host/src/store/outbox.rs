//! The outbox: events on their way to the broker.

use std::sync::Arc;

use super::Direct;
use crate::domain::event::Envelope;

/// An outbox row with its event: what the relay sends.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Row id.
    pub id: i64,
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Sent directly to one stage's queue, with its round and attempt (a retry, a replay, a refilled
    /// queue); none: published by its type.
    pub direct: Option<Direct>,
    /// A known stage consumes it: the message is undelivered if the broker finds no queue for it.
    pub routed: bool,
}

/// A row that was published by type, and the stages whose queues did not confirm it.
#[derive(Debug, Clone)]
pub struct NarrowedRow {
    /// Row id.
    pub id: i64,
    /// The event.
    pub envelope: Arc<Envelope>,
    /// The stages to send it to; none: it is sent.
    pub stages: Vec<Arc<str>>,
}
