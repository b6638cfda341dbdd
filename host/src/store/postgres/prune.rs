//! Removes finished orders that are old, and old events without an order, one batch in one transaction.
//!
//! Several hosts may do so at once: each takes orders that no other has locked.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool};

use super::Context;
use super::committer;
use super::sql::{Refused, args, execute, fetch};
use crate::store::decode::Columns as _;
use crate::store::{Pruned, StoreError};

/// Nothing of the event `e` is open, waits for a person, or waits to be sent.
macro_rules! nothing_open {
    ($events:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM ",
            $events,
            " JOIN deliveries d ON d.event_seq = e.seq WHERE d.status = 'open') AND NOT EXISTS (SELECT 1 FROM ",
            $events,
            " JOIN dead_letters l ON l.event_seq = e.seq WHERE l.status = 'open') AND NOT EXISTS (SELECT 1 FROM ",
            $events,
            " JOIN outbox x ON x.event_seq = e.seq)"
        )
    };
}

pub(super) async fn prune(db: &PgPool, context: &Context, before_ms: u64, limit: u32) -> Result<Pruned, StoreError> {
    Ok(prune_or_race(db, context, before_ms, limit).await?)
}

async fn prune_or_race(db: &PgPool, context: &Context, before_ms: u64, limit: u32) -> Result<Pruned, Refused> {
    let mut conn = super::begin_on(db).await?;
    let (times, _) = committer::begin(&mut conn, context).await?;
    let sql = concat!(
        "SELECT o.id FROM orders o WHERE o.status <> 'pruned' AND o.updated_ms < $1 AND ",
        nothing_open!("(SELECT seq FROM events WHERE order_id = o.id) e"),
        " ORDER BY o.updated_ms LIMIT $2 FOR UPDATE OF o SKIP LOCKED"
    );
    let rows = fetch(&mut *conn, sql, args![before_ms as i64, i64::from(limit)]).await?;
    let orders = rows.iter().map(|row| row.owned(0)).collect::<Result<Vec<_>, _>>()?;
    let mut seqs = positions(&fetch(&mut *conn, "SELECT seq FROM events WHERE order_id = ANY($1)", args![&orders]).await?)?;
    let sql = concat!(
        "SELECT o.seq FROM events o WHERE o.order_id IS NULL AND o.time_ms < $1 AND ",
        nothing_open!("(SELECT o.seq) e"),
        " ORDER BY o.time_ms LIMIT $2 FOR UPDATE OF o SKIP LOCKED"
    );
    let others = positions(&fetch(&mut *conn, sql, args![before_ms as i64, i64::from(limit)]).await?)?;
    let events = others.len() as u64;
    seqs.extend(others);
    remove(&mut conn, &orders, &seqs, times.now_ms).await?;
    execute(&mut conn, "COMMIT", args![]).await?;
    conn.keep();
    Ok(Pruned { orders: orders.len() as u64, events })
}

fn positions(rows: &[PgRow]) -> Result<Vec<i64>, StoreError> {
    rows.iter().map(|row| row.int(0)).collect()
}

async fn remove(conn: &mut PgConnection, orders: &[String], seqs: &[i64], now_ms: u64) -> Result<(), Refused> {
    let sql = "WITH k AS (SELECT DISTINCT d.stage, e.order_id FROM deliveries d JOIN events e ON e.seq = d.event_seq \
               WHERE d.event_seq = ANY($1) AND e.order_id = ANY($2)) \
               DELETE FROM state WHERE (stage, key) IN (SELECT s.stage, s.key FROM k CROSS JOIN LATERAL \
               (SELECT * FROM state s WHERE s.stage = k.stage AND s.key >= 'order/' || k.order_id || '/' \
               AND s.key < 'order/' || k.order_id || '0' OFFSET 0) s)";
    execute(conn, sql, args![seqs, orders]).await?;
    execute(conn, "DELETE FROM attempts WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM dead_letters WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM deliveries WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM events WHERE seq = ANY($1)", args![seqs]).await?;
    let sql = "UPDATE orders SET status = 'pruned', body = 'null', customer = NULL, updated_ms = $2 WHERE id = ANY($1)";
    execute(conn, sql, args![orders, now_ms as i64]).await?;
    Ok(())
}
