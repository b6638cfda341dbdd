//! Deletes finished orders past their retention period, and events without an order, one batch per
//! transaction.
//!
//! Several hosts may do so at the same time: each skips orders that another one has locked.
//! Unfinished orders are skipped: a batch starts where the previous one ended, and wraps around at
//! the end. Every query takes a list of keys, with one index search each, so the cost of a batch does
//! not depend on the size of the tables.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};

use super::Context;
use super::sql::{TransactionError, args, columns, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::decode::Columns as _;
use crate::store::{Pruned, StoreError};

/// Where the next batch starts, milliseconds since 1970-01-01 UTC.
#[derive(Default)]
pub(super) struct Cursors {
    orders: AtomicI64,
    events: AtomicI64,
}

/// Where the next batch starts, given the ages of this one: after the last one, or at the start when
/// there are no more.
fn advance(cursor: &AtomicI64, ages: &[i64], limit: u32) {
    let next = match ages.last() {
        Some(last) if ages.len() >= limit as usize => {
            (cursor.load(Ordering::Relaxed) + 1).max(*last)
        }
        _ => 0,
    };
    cursor.store(next, Ordering::Relaxed);
}

pub(super) async fn prune(
    db: &PgPool,
    context: &Context,
    before_ms: u64,
    limit: u32,
) -> Result<Pruned, TransactionError> {
    let cursors = &context.prune;
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let sql = "SELECT id, updated_ms FROM orders WHERE status <> 'pruned' AND updated_ms < $1 AND \
               updated_ms >= $2 \
               ORDER BY updated_ms LIMIT $3 FOR UPDATE SKIP LOCKED";
    let from = cursors.orders.load(Ordering::Relaxed);
    let rows =
        fetch(&mut *transaction, sql, args![before_ms as i64, from, i64::from(limit)]).await?;
    let candidates = rows.iter().map(|row| row.owned(0)).collect::<Result<Vec<_>, _>>()?;
    advance(&cursors.orders, &numbers(&rows, 1)?, limit);
    let rows = fetch(
        &mut *transaction,
        "SELECT seq, order_id FROM events WHERE order_id = ANY($1)",
        args![&candidates],
    )
    .await?;
    let open = open_events(&mut transaction, &numbers(&rows, 0)?).await?;
    let mut kept: HashSet<&str> = HashSet::new();
    for row in &rows {
        if open.contains(&row.int(0)?) {
            kept.insert(row.text(1)?);
        }
    }
    let orders: Vec<&str> =
        candidates.iter().map(String::as_str).filter(|id| !kept.contains(id)).collect();
    let mut seqs = Vec::with_capacity(rows.len());
    for row in &rows {
        if !kept.contains(row.text(1)?) {
            seqs.push(row.int(0)?);
        }
    }

    let sql = "SELECT seq, time_ms FROM events WHERE order_id IS NULL AND time_ms < $1 AND \
               time_ms >= $2 \
               ORDER BY time_ms LIMIT $3 FOR UPDATE SKIP LOCKED";
    let from = cursors.events.load(Ordering::Relaxed);
    let rows =
        fetch(&mut *transaction, sql, args![before_ms as i64, from, i64::from(limit)]).await?;
    advance(&cursors.events, &numbers(&rows, 1)?, limit);
    let lonely = numbers(&rows, 0)?;
    let open = open_events(&mut transaction, &lonely).await?;
    let before = seqs.len();
    seqs.extend(lonely.into_iter().filter(|seq| !open.contains(seq)));
    let events = (seqs.len() - before) as u64;
    let now_ms = transaction.now_ms();
    remove(&mut transaction, &orders, &seqs, now_ms).await?;
    transaction.commit().await?;
    Ok(Pruned { orders: orders.len() as u64, events })
}

fn numbers(rows: &[PgRow], at: usize) -> Result<Vec<i64>, StoreError> {
    rows.iter().map(|row| row.int(at)).collect()
}

/// Those with an open delivery, an open dead letter or an outbox row.
async fn open_events(
    conn: &mut PgConnection,
    seqs: &[i64],
) -> Result<HashSet<i64>, TransactionError> {
    let sql = "SELECT k.seq FROM unnest($1::int8[]) k (seq) CROSS JOIN LATERAL \
               (SELECT 1 FROM deliveries d WHERE d.event_seq = k.seq AND d.settled_ms IS NULL \
               OFFSET 0) open \
               UNION ALL SELECT k.seq FROM unnest($1::int8[]) k (seq) CROSS JOIN LATERAL \
               (SELECT 1 FROM outbox o WHERE o.event_seq = k.seq OFFSET 0) unsent \
               UNION ALL SELECT event_seq FROM dead_letters WHERE status = 'open' AND event_seq = \
               ANY($1)";
    let rows = fetch(conn, sql, args![seqs]).await?;
    rows.iter().map(|row| Ok(row.int(0)?)).collect()
}

async fn remove(
    conn: &mut PgConnection,
    orders: &[&str],
    seqs: &[i64],
    now_ms: u64,
) -> Result<(), TransactionError> {
    let sql = "SELECT DISTINCT d.stage, e.order_id FROM unnest($1::int8[]) k (seq) CROSS JOIN \
               LATERAL \
               (SELECT order_id FROM events e WHERE e.seq = k.seq AND e.order_id IS NOT NULL \
               OFFSET 0) e CROSS JOIN LATERAL \
               (SELECT stage FROM deliveries d WHERE d.event_seq = k.seq OFFSET 0) d";
    let rows = fetch(&mut *conn, sql, args![seqs]).await?;
    let mut folders: Vec<(&str, String, String)> = Vec::with_capacity(rows.len());
    for row in &rows {
        let (stage, order) = (row.text(0)?, row.text(1)?);
        // '0' follows '/' in byte order.
        folders.push((stage, format!("order/{order}/"), format!("order/{order}0")));
    }
    let sql = "DELETE FROM state WHERE (stage, key) IN (SELECT s.stage, s.key FROM \
               unnest($1::text[], $2::text[], $3::text[]) \
               k (stage, first, last) CROSS JOIN LATERAL \
               (SELECT * FROM state s WHERE s.stage = k.stage AND s.key >= k.first AND s.key < \
               k.last OFFSET 0) s)";
    execute(conn, sql, columns![&folders; |row| row.0, |row| row.1.as_str(), |row| row.2.as_str()])
        .await?;
    execute(conn, "DELETE FROM attempts WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM dead_letters WHERE event_seq = ANY($1)", args![seqs]).await?;
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN (SELECT d.* FROM \
               unnest($1::int8[]) k (seq) \
               CROSS JOIN LATERAL (SELECT stage, settled_ms, event_seq FROM deliveries d WHERE \
               d.event_seq = k.seq OFFSET 0) d)";
    execute(conn, sql, args![seqs]).await?;
    execute(conn, "DELETE FROM deliveries WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM events WHERE seq = ANY($1)", args![seqs]).await?;
    let sql = "UPDATE orders SET status = 'pruned', body = 'null', customer = NULL, updated_ms = \
               $2 WHERE id = ANY($1)";
    execute(conn, sql, args![orders, now_ms as i64]).await?;
    Ok(())
}
