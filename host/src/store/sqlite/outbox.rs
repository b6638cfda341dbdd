//! The outbox and the refill of queues: leases by the host's clock, on the writer's connection.
//!
//! Guarantee: a row is held by one lease at a time, and a lease that ran out frees its row. Bounded
//! by the caller's limit.

use std::sync::Arc;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqlitePool;

use super::sql::{args, execute, fetch, json};
use super::{Context, write};
use crate::store::decode::{self, Columns as _, envelope_columns, outbox_columns};
use crate::store::{Direct, OutboxRow, StoreError};

/// Whether a claim would find anything: asked of a reader, so that an idle relay costs no write.
pub(super) async fn claimable(readers: &SqlitePool, now_ms: u64) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM outbox WHERE owner IS NULL AND due_ms <= ?1) \
               OR EXISTS (SELECT 1 FROM outbox WHERE owner IS NOT NULL AND lease_until_ms <= ?1)";
    let rows = fetch(readers, sql, args![now_ms as i64]).await?;
    rows.first().map_or(Ok(false), |row| row.flag(0))
}

/// Leases due rows, the earliest first.
pub(super) async fn claim(
    conn: &mut SqliteConnection,
    context: &Context,
    now_ms: u64,
    limit: u32,
) -> Result<Vec<OutboxRow>, StoreError> {
    let sql = "UPDATE outbox SET owner = NULL, lease_until_ms = NULL WHERE owner IS NOT NULL AND lease_until_ms <= ?1";
    execute(conn, sql, args![now_ms as i64]).await?;
    let sql = concat!(
        "SELECT ",
        outbox_columns!(),
        " FROM (SELECT * FROM outbox WHERE owner IS NULL AND due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2) o \
         CROSS JOIN events e ON e.seq = o.event_seq ORDER BY o.due_ms, o.id"
    );
    let rows = fetch(&mut *conn, sql, args![now_ms as i64, i64::from(limit)]).await?;
    let claimed = rows.iter().map(decode::outbox_row).collect::<Result<Vec<_>, _>>()?;
    if !claimed.is_empty() {
        let ids: Vec<i64> = claimed.iter().map(|row| row.id).collect();
        let until_ms = (now_ms + context.lease_ms) as i64;
        let sql = "UPDATE outbox SET owner = ?1, lease_until_ms = ?2 WHERE id IN (SELECT value FROM json_each(?3))";
        execute(conn, sql, args![context.host.as_str(), until_ms, json(&ids)]).await?;
    }
    Ok(claimed)
}

/// Gives rows back.
pub(super) async fn postpone(
    conn: &mut SqliteConnection,
    ids: &[i64],
    due_at_ms: u64,
) -> Result<(), StoreError> {
    let sql = "UPDATE outbox SET owner = NULL, lease_until_ms = NULL, due_ms = ?1 WHERE id IN (SELECT value FROM json_each(?2))";
    execute(conn, sql, args![due_at_ms as i64, json(ids)]).await?;
    Ok(())
}

/// Open deliveries that a reader found without an outbox row.
pub(super) struct Candidates<'a> {
    pub(super) stage: &'a str,
    pub(super) events: &'a [i64],
    pub(super) queued_before_ms: u64,
}

/// An open delivery that was handed over long ago and that no outbox row will bring back.
macro_rules! is_lost {
    () => {
        "d.stage = ?1 AND d.status = 'open' AND d.queued_ms < ?2 AND NOT EXISTS \
         (SELECT 1 FROM outbox o WHERE o.event_seq = d.event_seq AND (o.stage IS NULL OR o.stage = d.stage))"
    };
}

/// Looks for them on a reader: the search may be long where the outbox is, and must not hold up the
/// writer.
pub(super) async fn lost(
    readers: &SqlitePool,
    stage: &str,
    before_ms: u64,
    limit: u32,
) -> Result<Vec<i64>, StoreError> {
    let sql = concat!(
        "SELECT d.event_seq FROM deliveries d WHERE ",
        is_lost!(),
        " ORDER BY d.queued_ms, d.event_seq LIMIT ?3"
    );
    let rows = fetch(readers, sql, args![stage, before_ms as i64, i64::from(limit)]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Sends again those that are still lost.
pub(super) async fn requeue(
    conn: &mut SqliteConnection,
    context: &mut Context,
    now_ms: u64,
    lost: Candidates<'_>,
) -> Result<Vec<OutboxRow>, StoreError> {
    let sql = concat!(
        "SELECT d.event_seq, d.round, d.attempt, ",
        envelope_columns!(),
        " FROM json_each(?3) k CROSS JOIN deliveries d ON d.event_seq = k.value CROSS JOIN events e ON e.seq = d.event_seq WHERE ",
        is_lost!(),
        " ORDER BY k.key"
    );
    let before_ms = lost.queued_before_ms as i64;
    let rows = fetch(&mut *conn, sql, args![lost.stage, before_ms, json(lost.events)]).await?;
    let stage: Arc<str> = lost.stage.into();
    let mut events: Vec<i64> = Vec::with_capacity(rows.len());
    let mut sent = Vec::with_capacity(rows.len());
    let mut numbers = context.numbers;
    let mut plan = context.plan(&mut numbers, now_ms);
    for row in &rows {
        let seq = row.int(0)?;
        let direct =
            Direct { stage: Arc::clone(&stage), round: row.small(1)?, attempt: row.small(2)? };
        let envelope = Arc::new(decode::envelope(row, 3)?);
        sent.extend(plan.send(seq, &envelope, Some(direct), now_ms));
        events.push(seq);
    }
    write::write(conn, context, plan).await?;
    context.numbers = numbers;
    let sql = "UPDATE deliveries SET queued_ms = ?1 WHERE stage = ?2 AND event_seq IN (SELECT value FROM json_each(?3))";
    execute(conn, sql, args![now_ms as i64, lost.stage, json(&events)]).await?;
    Ok(sent)
}
