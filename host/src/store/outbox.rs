//! The outbox: events on their way to the broker.

use std::sync::Arc;

use super::decode::{self, Columns};
use super::transaction::{IMMEDIATELY, WriteSet};
use super::{Direct, StoreError};
use crate::domain::encryption::Encryption;
use crate::domain::event::{Envelope, topic_matches};

/// Other programs that receive events from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listeners {
    /// Any event may be received.
    Unknown,
    /// Events that match one of these topic patterns are received.
    Patterns(Arc<[String]>),
}

impl Listeners {
    /// Those of a broker whose subscriptions are these patterns; none: not known.
    pub fn of(subscriptions: Option<&[String]>) -> Self {
        subscriptions.map_or(Self::Unknown, |patterns| Self::Patterns(patterns.into()))
    }

    /// Whether another program may receive events of this type.
    pub fn hear(&self, event_type: &str) -> bool {
        match self {
            Self::Unknown => true,
            Self::Patterns(patterns) => {
                patterns.iter().any(|pattern| topic_matches(pattern, event_type))
            }
        }
    }
}

/// What a store does with events that are to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publishing {
    /// Events that they receive are sent even if no stage consumes them.
    pub listeners: Listeners,
    /// Keeps an event that is due now in the outbox until it is sent. A broker in memory needs no
    /// such row: it fills its queues from the open deliveries.
    pub from_outbox: bool,
}

#[cfg(test)]
impl Publishing {
    /// Stages only, through the outbox.
    pub(crate) fn to_stages() -> Self {
        Self { listeners: Listeners::Patterns(Arc::default()), from_outbox: true }
    }
}

/// An event that was committed and is to be sent, mostly with its outbox row.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Row id; none: there is no row, and if the message is lost, its open deliveries are found later.
    pub id: Option<i64>,
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

/// Sends open deliveries of a stage again. Each row has the event's position, the round, the attempt and
/// the event, from the column `at` on.
pub(super) fn send_again(
    write_set: &mut WriteSet<'_>,
    stage: &Arc<str>,
    rows: &[impl Columns],
    at: usize,
    encryption: &Encryption,
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut sent = Vec::with_capacity(rows.len());
    for row in rows {
        let (round, attempt) = (row.small(at + 1)?, row.small(at + 2)?);
        let direct = Direct { stage: Arc::clone(stage), round, attempt };
        let envelope = Arc::new(decode::envelope(row, at + 3, encryption)?);
        sent.extend(write_set.send(row.int(at)?, &envelope, Some(direct), IMMEDIATELY));
    }
    Ok(sent)
}
