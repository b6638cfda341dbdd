//! What a group of operations must know before it decides: one question per table, whatever the
//! size of the group.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Op;
use crate::domain::event::EventKey;
use crate::store::{NewEvent, Order, StoreError, Version};

/// A delivery's row, as far as a compare-and-set needs it.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Present {
    pub(in crate::store) open: bool,
    pub(in crate::store) round: u32,
    pub(in crate::store) attempt: u32,
    pub(in crate::store) created_ms: u64,
    pub(in crate::store) queued_ms: u64,
}

/// A delivery: neither, or its event only, or both are known.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct Seen {
    pub(in crate::store) seq: Option<i64>,
    pub(in crate::store) row: Option<Present>,
    /// Its order is cancelled, or being cancelled.
    pub(in crate::store) held: bool,
}

/// A delivery that somebody settles, and the order that its event belongs to.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct AskedDelivery<'a> {
    pub(in crate::store) key: DeliveryRef<'a>,
    pub(in crate::store) order: Option<&'a str>,
}

/// Names a delivery without owning it.
pub(in crate::store) type DeliveryRef<'a> = (&'a str, &'a EventKey);

/// The questions.
#[derive(Default)]
pub(in crate::store) struct ReadSet<'a> {
    /// Orders by id.
    pub(in crate::store) orders: Vec<&'a str>,
    /// Orders by idempotency key.
    pub(in crate::store) keys: Vec<&'a str>,
    /// Events by (source, id).
    pub(in crate::store) events: Vec<(&'a str, &'a str)>,
    /// Deliveries that somebody settles.
    pub(in crate::store) deliveries: Vec<AskedDelivery<'a>>,
    /// State keys (stage, key), sorted.
    pub(in crate::store) versions: Vec<(&'a str, &'a str)>,
}

impl<'a> ReadSet<'a> {
    /// All that `ops` need to know.
    pub(in crate::store) fn by(ops: impl Iterator<Item = &'a Op>) -> Self {
        let mut read_set = Self::default();
        let mut versions: BTreeSet<(&'a str, &'a str)> = BTreeSet::new();
        for op in ops {
            match op {
                Op::Order(order) => {
                    read_set.orders.push(&order.id);
                    read_set.keys.extend(order.idempotency_key.as_deref());
                }
                Op::Event(event) => read_set.events.push(event_ref(event)),
                Op::Cancel(cancel) => read_set.orders.push(&cancel.order_id),
                Op::Commit(batch) => {
                    read_set.deliveries.extend(batch.settlements.iter().map(|one| AskedDelivery {
                        key: (&*one.delivery.stage, &one.delivery.event),
                        order: one.envelope.order_id.as_deref(),
                    }));
                    versions
                        .extend(batch.reads.iter().map(|(key, _)| (&*batch.stage, key.as_str())));
                    versions
                        .extend(batch.writes.iter().map(|(key, _)| (&*batch.stage, key.as_str())));
                }
                Op::Sent(_) => {}
            }
        }
        read_set.versions = versions.into_iter().collect();
        read_set
    }
}

/// The answers.
#[derive(Default)]
pub(in crate::store) struct Loaded<'a> {
    /// Orders by id, with their fingerprints.
    pub(in crate::store) orders: HashMap<&'a str, (Order, String)>,
    /// Orders by idempotency key, with their fingerprints.
    pub(in crate::store) keys: HashMap<&'a str, (Order, String)>,
    /// Events (source, id) that are in the log.
    pub(in crate::store) events: HashSet<(&'a str, &'a str)>,
    /// Deliveries that somebody settles.
    pub(in crate::store) deliveries: HashMap<DeliveryRef<'a>, Seen>,
    /// Orders that this group cancels.
    pub(in crate::store) held: HashSet<&'a str>,
    /// Versions of state keys (stage, key); absent: 0.
    pub(in crate::store) versions: HashMap<(&'a str, &'a str), Version>,
}

/// The key of a new event.
pub(super) fn event_ref(event: &NewEvent) -> (&str, &str) {
    (&event.envelope.event.source, &event.envelope.event.id)
}

/// The question that an answer numbered `index` belongs to.
pub(in crate::store) fn pick<T: Copy>(read_set: &[T], index: i64) -> Result<T, StoreError> {
    usize::try_from(index)
        .ok()
        .and_then(|index| read_set.get(index).copied())
        .ok_or_else(|| StoreError::Corrupt(format!("row {index} was not read_set for")))
}
