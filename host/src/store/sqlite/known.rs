//! What a group of operations must know before it decides: one query per table, whatever the size of the group.
//!
//! Decisions of the group update it as they are made, so that the second of two operations on one row sees the first. Nothing here
//! writes to the database.

use std::collections::{HashMap, HashSet};

use sqlx::SqliteConnection;

use super::committer::Op;
use super::read;
use super::sql::{args, column, fetch, json, small, unsigned};
use crate::event::EventKey;
use crate::store::{Batch, NewEvent, Order, StoreError, Version};

/// A delivery's row, as far as a compare-and-set needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub(super) open: bool,
    pub(super) round: u32,
    pub(super) attempt: u32,
    pub(super) created_ms: u64,
    pub(super) queued_ms: u64,
}

/// A delivery: neither, or its event only, or both are known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) seq: Option<i64>,
    pub(super) row: Option<Present>,
}

/// Names a delivery without owning it.
pub(super) type DeliveryRef<'a> = (&'a str, &'a EventKey);

/// The answers.
#[derive(Default)]
pub(super) struct Known<'a> {
    /// Orders by id, with their fingerprints.
    pub(super) orders: HashMap<&'a str, (Order, String)>,
    /// Events (source, id) that are in the log.
    pub(super) events: HashSet<(&'a str, &'a str)>,
    /// Deliveries that somebody settles.
    pub(super) deliveries: HashMap<DeliveryRef<'a>, Seen>,
    /// Versions of state keys (stage, key); absent: 0.
    pub(super) versions: HashMap<(&'a str, &'a str), Version>,
}

impl<'a> Known<'a> {
    /// Asks for all that `ops` need.
    pub(super) async fn load(conn: &mut SqliteConnection, ops: &[&'a Op]) -> Result<Self, StoreError> {
        let mut known = Self::default();
        let (mut orders, mut events, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::AcceptOrder(order) => orders.push(order.id.as_str()),
                Op::AcceptEvent(event) => events.push(event_ref(event)),
                Op::Commit(batch) => batches.push(batch),
                _ => {}
            }
        }
        known.load_orders(conn, &orders).await?;
        known.load_events(conn, &events).await?;
        known.load_deliveries(conn, &batches).await?;
        known.load_versions(conn, &batches).await?;
        Ok(known)
    }

    async fn load_orders(&mut self, conn: &mut SqliteConnection, ids: &[&'a str]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let sql =
            concat!("SELECT ", read::order_columns!(), ", o.fingerprint, k.key FROM json_each(?1) k CROSS JOIN orders o ON o.id = k.value");
        for row in &fetch(conn, sql, args![json(ids)]).await? {
            let id = pick(ids, column(row, 8)?)?;
            self.orders.insert(id, (read::order(row)?, column(row, 7)?));
        }
        Ok(())
    }

    async fn load_events(&mut self, conn: &mut SqliteConnection, keys: &[(&'a str, &'a str)]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let sql = "SELECT k.key FROM json_each(?1) k CROSS JOIN events e ON e.id = k.value ->> 1 AND e.source = k.value ->> 0";
        for row in &fetch(conn, sql, args![json(keys)]).await? {
            self.events.insert(pick(keys, column(row, 0)?)?);
        }
        Ok(())
    }

    async fn load_deliveries(&mut self, conn: &mut SqliteConnection, batches: &[&'a Batch]) -> Result<(), StoreError> {
        let keys: Vec<(&str, &str, &str)> = batches
            .iter()
            .flat_map(|batch| &batch.settlements)
            .map(|settlement| &settlement.delivery)
            .map(|key| (&*key.stage, key.event.source.as_str(), key.event.id.as_str()))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let refs: Vec<DeliveryRef<'a>> = batches
            .iter()
            .flat_map(|batch| &batch.settlements)
            .map(|settlement| (&*settlement.delivery.stage, &settlement.delivery.event))
            .collect();
        let sql = "SELECT k.key, e.seq, d.status = 'open', d.round, d.attempt, d.created_ms, d.queued_ms \
                   FROM json_each(?1) k \
                   CROSS JOIN events e ON e.id = k.value ->> 2 AND e.source = k.value ->> 1 \
                   LEFT JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 0";
        for row in &fetch(conn, sql, args![json(&keys)]).await? {
            let open: Option<bool> = column(row, 2)?;
            let present = match open {
                None => None,
                Some(open) => Some(Present {
                    open,
                    round: small(row, 3)?,
                    attempt: small(row, 4)?,
                    created_ms: unsigned(row, 5)?,
                    queued_ms: unsigned(row, 6)?,
                }),
            };
            let seen = Seen { seq: Some(column(row, 1)?), row: present };
            self.deliveries.insert(pick(&refs, column(row, 0)?)?, seen);
        }
        Ok(())
    }

    async fn load_versions(&mut self, conn: &mut SqliteConnection, batches: &[&'a Batch]) -> Result<(), StoreError> {
        let mut keys: HashSet<(&'a str, &'a str)> = HashSet::new();
        for batch in batches {
            let stage: &str = &batch.stage;
            keys.extend(batch.reads.iter().map(|(key, _)| (stage, key.as_str())));
            keys.extend(batch.writes.iter().map(|(key, _)| (stage, key.as_str())));
        }
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<(&'a str, &'a str)> = keys.into_iter().collect();
        let sql = "SELECT k.key, s.version FROM json_each(?1) k CROSS JOIN state s ON s.stage = k.value ->> 0 AND s.key = k.value ->> 1";
        for row in &fetch(conn, sql, args![json(&keys)]).await? {
            self.versions.insert(pick(&keys, column(row, 0)?)?, column(row, 1)?);
        }
        Ok(())
    }
}

/// The key of a new event.
pub(super) fn event_ref(event: &NewEvent) -> (&str, &str) {
    (&event.envelope.event.source, &event.envelope.event.id)
}

fn pick<T: Copy>(asked: &[T], index: i64) -> Result<T, StoreError> {
    usize::try_from(index)
        .ok()
        .and_then(|index| asked.get(index).copied())
        .ok_or_else(|| StoreError::Corrupt(format!("row {index} was not asked for")))
}
