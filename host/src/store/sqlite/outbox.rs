//! The outbox and the refill of queues: leases by the host's clock, on the writer's connection.
//!
//! Guarantee: one host at a time leases a row, and an expired lease frees it. Bounded by the
//! caller's limits of rows and bytes.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch, json};
use crate::domain::event::EventKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::decode::{self, Columns as _, envelope_columns, outbox_columns};
use crate::store::outbox::send_again;
use crate::store::transaction::{Operation, Sender};
use crate::store::unrouted::{Routed, RoutedEvents, Routing, count_unrouted};
use crate::store::{LostDeliveries, NarrowedRow, OutboxRow, StoreError, UnroutedEvents, unrouted};

/// Whether a claim would find anything. Runs on a reader, so an idle relay costs no write.
pub(super) async fn claimable(readers: &SqlitePool, now_ms: u64) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM outbox WHERE owner IS NULL AND due_ms <= ?1) \
               OR EXISTS (SELECT 1 FROM outbox WHERE owner IS NOT NULL AND lease_until_ms <= ?1)";
    let rows = fetch(readers, sql, args![now_ms as i64]).await?;
    rows.first().map_or(Ok(false), |row| row.flag(0))
}

/// Leases due rows, the earliest first.
pub(super) struct Claim {
    pub(super) limit: u32,
    pub(super) max_bytes: u64,
}

impl Operation for Claim {
    type Reply = Vec<OutboxRow>;
}

#[async_trait]
impl SingleOperation for Claim {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<Vec<OutboxRow>, StoreError> {
        let Writer { conn, context, now_ms } = writer;
        let sql = "UPDATE outbox SET owner = NULL, lease_until_ms = NULL \
                   WHERE owner IS NOT NULL AND lease_until_ms <= ?1";
        execute(conn, sql, args![*now_ms as i64]).await?;
        let sql = concat!(
            "SELECT ",
            outbox_columns!(),
            " FROM (SELECT o.*, sum(length(e.data)) OVER (ORDER BY o.due_ms, o.id) - \
             length(e.data) AS bytes_before FROM (SELECT * FROM outbox WHERE owner IS NULL AND \
             due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2) o \
             CROSS JOIN events e ON e.seq = o.event_seq) o \
             CROSS JOIN events e ON e.seq = o.event_seq WHERE o.bytes_before < ?3 \
             ORDER BY o.due_ms, o.id"
        );
        let args = args![*now_ms as i64, i64::from(self.limit), bytes(self.max_bytes)];
        let rows = fetch(&mut **conn, sql, args).await?;
        let claimed = rows
            .iter()
            .map(|row| decode::outbox_row(row, &context.encryption))
            .collect::<Result<Vec<_>, _>>()?;
        if !claimed.is_empty() {
            let ids: Vec<i64> = claimed.iter().filter_map(|row| row.id).collect();
            let until_ms = (*now_ms + context.lease_ms) as i64;
            let sql = "UPDATE outbox SET owner = ?1, lease_until_ms = ?2 \
                       WHERE id IN (SELECT value FROM json_each(?3))";
            execute(conn, sql, args![context.host.as_str(), until_ms, json(&ids)]).await?;
        }
        Ok(claimed)
    }
}

/// Releases rows until they are due again.
pub(super) struct Postpone {
    pub(super) ids: Vec<i64>,
    pub(super) delay_ms: u64,
}

impl Operation for Postpone {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Postpone {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let sql = "UPDATE outbox SET owner = NULL, lease_until_ms = NULL, due_ms = ?1 \
                   WHERE id IN (SELECT value FROM json_each(?2))";
        let due_ms = (writer.now_ms + self.delay_ms) as i64;
        execute(writer.conn, sql, args![due_ms, json(&self.ids)]).await?;
        Ok(())
    }
}

/// Replaces rows with one row for each stage that did not confirm.
pub(super) struct Narrow {
    pub(super) rows: Vec<NarrowedRow>,
    pub(super) delay_ms: u64,
}

impl Operation for Narrow {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Narrow {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let ids: Vec<i64> = self.rows.iter().map(|row| row.id).collect();
        let sql = "SELECT id, event_seq FROM outbox WHERE id IN (SELECT value FROM json_each(?1))";
        let mut positions = HashMap::new();
        for row in &fetch(&mut *writer.conn, sql, args![json(&ids)]).await? {
            positions.insert(row.int(0)?, row.int(1)?);
        }
        let mut write_set = writer.write_set();
        write_set.narrow(&self.rows, &positions, self.delay_ms);
        writer.write(write_set).await
    }
}

/// An open delivery that was queued long ago and has no outbox row.
macro_rules! is_lost {
    () => {
        "d.stage = ?1 AND d.status = 'open' AND d.queued_ms < ?2 AND NOT EXISTS \
         (SELECT 1 FROM outbox o WHERE o.event_seq = d.event_seq AND (o.stage IS NULL OR o.stage \
         = d.stage))"
    };
}

/// Events of lost deliveries. Runs on a reader: with a long outbox the search takes long, and must
/// not block the writer.
pub(super) async fn lost(
    readers: &SqlitePool,
    stage: &str,
    queued_before_ms: u64,
    lost: LostDeliveries,
) -> Result<Vec<i64>, StoreError> {
    let sql = concat!(
        "SELECT d.event_seq, length(e.data) FROM deliveries d \
         CROSS JOIN events e ON e.seq = d.event_seq WHERE ",
        is_lost!(),
        " ORDER BY d.queued_ms, d.event_seq LIMIT ?3"
    );
    let args = args![stage, queued_before_ms as i64, i64::from(lost.limit)];
    let (mut events, mut before) = (Vec::new(), 0);
    for row in &fetch(readers, sql, args).await? {
        if before >= bytes(lost.max_bytes) {
            break;
        }
        before += row.int(1)?;
        events.push(row.int(0)?);
    }
    Ok(events)
}

/// A number of bytes as the database counts them.
fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Adds outbox rows for those of the deliveries that are still lost.
pub(super) struct RequeueLost {
    pub(super) stage: Arc<str>,
    pub(super) events: Vec<i64>,
    pub(super) queued_before_ms: u64,
}

impl Operation for RequeueLost {
    type Reply = Vec<OutboxRow>;
}

#[async_trait]
impl SingleOperation for RequeueLost {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Vec<OutboxRow>, StoreError> {
        let sql = concat!(
            "SELECT d.event_seq, d.round, d.attempt, ",
            envelope_columns!(),
            " FROM json_each(?3) k CROSS JOIN deliveries d ON d.event_seq = k.value \
             CROSS JOIN events e ON e.seq = d.event_seq WHERE ",
            is_lost!(),
            " ORDER BY k.key"
        );
        let args = args![&*self.stage, self.queued_before_ms as i64, json(&self.events)];
        let rows = fetch(&mut *writer.conn, sql, args).await?;
        let events = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<i64>, _>>()?;
        let mut write_set = writer.write_set();
        let sent = send_again(&mut write_set, &self.stage, &rows, 0, &writer.context.encryption)?;
        writer.write(write_set).await?;
        let sql = "UPDATE deliveries SET queued_ms = ?1 \
                   WHERE stage = ?2 AND event_seq IN (SELECT value FROM json_each(?3))";
        let args = args![writer.now_ms as i64, &*self.stage, json(&events)];
        execute(writer.conn, sql, args).await?;
        Ok(sent)
    }
}

/// Counts the events that wait for a stage.
pub(super) async fn unrouted(
    readers: &SqlitePool,
    kinds: &SubjectKinds,
) -> Result<Vec<UnroutedEvents>, StoreError> {
    let sql = count_unrouted!("NOT IN (SELECT value FROM json_each($1))");
    let rows = fetch(readers, sql, args![json(&kinds.finished_statuses())]).await?;
    unrouted::decode(&rows)
}

impl Operation for Routing {
    type Reply = Routed;
}

#[async_trait]
impl SingleOperation for Routing {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Routed, StoreError> {
        let sql = concat!(
            "SELECT e.seq, sub.status, e.due_ms, ",
            envelope_columns!(),
            " FROM events e LEFT JOIN subjects sub ON sub.key = e.subject_key WHERE e.type = ?1 AND \
             e.unrouted_ms IS NOT NULL ORDER BY e.seq LIMIT ?2"
        );
        let args = args![self.event_type.as_str(), i64::from(self.limit)];
        let rows = fetch(&mut *writer.conn, sql, args).await?;
        let mut write_set = writer.write_set();
        let RoutedEvents { all, sent, outbox } =
            self.route(&rows, &mut write_set, &writer.context.encryption)?;
        let sql = "UPDATE events SET unrouted_ms = NULL WHERE seq IN (SELECT value FROM \
                   json_each(?1))";
        execute(writer.conn, sql, args![json(&all)]).await?;
        let sql = "UPDATE events SET routed_to = ?2, expires_ms = max(expires_ms, ?3) WHERE seq IN \
                   (SELECT value FROM json_each(?1))";
        let args = args![json(&sent), json(&self.stages), self.expires_at_ms as i64];
        execute(writer.conn, sql, args).await?;
        writer.write(write_set).await?;
        Ok(Routed { events: rows.len() as u32, outbox })
    }
}

/// Records that this host holds the messages of open deliveries.
pub(super) struct MarkHeld {
    pub(super) stage: Arc<str>,
    pub(super) held: Vec<EventKey>,
}

impl Operation for MarkHeld {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for MarkHeld {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let keys: Vec<_> = self.held.iter().map(|key| (&key.source, &key.id)).collect();
        let sql = "UPDATE deliveries SET queued_ms = ?1 WHERE stage = ?2 AND status = 'open' AND \
                   queued_ms < ?1 AND event_seq IN (SELECT e.seq FROM json_each(?3) k CROSS JOIN \
                   events e ON e.id = k.value ->> 1 AND e.source = k.value ->> 0)";
        execute(writer.conn, sql, args![writer.now_ms as i64, &*self.stage, json(&keys)]).await?;
        Ok(())
    }
}

/// Adds an outbox row for each of these deliveries that is open and has none.
pub(super) struct Requeue {
    pub(super) stage: Arc<str>,
    pub(super) events: Vec<EventKey>,
}

impl Operation for Requeue {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Requeue {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let keys: Vec<_> = self.events.iter().map(|key| (&key.source, &key.id)).collect();
        let sql = concat!(
            "SELECT d.event_seq, d.round, d.attempt, ",
            envelope_columns!(),
            " FROM json_each(?2) k \
             CROSS JOIN events e ON e.id = k.value ->> 1 AND e.source = k.value ->> 0 \
             CROSS JOIN deliveries d ON d.event_seq = e.seq AND d.stage = ?1 \
             WHERE d.status = 'open' AND NOT EXISTS (SELECT 1 FROM outbox o WHERE \
             o.event_seq = d.event_seq AND (o.stage IS NULL OR o.stage = d.stage)) \
             ORDER BY d.event_seq"
        );
        let rows = fetch(&mut *writer.conn, sql, args![&*self.stage, json(&keys)]).await?;
        let mut write_set = writer.write_set().sent_by(Sender::AnyHost);
        let none = send_again(&mut write_set, &self.stage, &rows, 0, &writer.context.encryption)?;
        debug_assert!(none.is_empty(), "any host sends them");
        writer.write(write_set).await
    }
}
