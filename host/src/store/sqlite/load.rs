//! Asks the database what a group of operations must know: one query per table, whatever the size
//! of the group.

use sqlx::SqliteConnection;

use super::sql::{args, fetch, json};
use crate::domain::order_status::StatusRules;
use crate::store::StoreError;
use crate::store::decode::{self, Columns as _, order_columns};
use crate::store::transaction::{Loaded, Present, ReadSet, Seen, pick};

/// Answers all that is asked.
pub(super) async fn load<'a>(
    conn: &mut SqliteConnection,
    rules: &StatusRules,
    asked: &ReadSet<'a>,
) -> Result<Loaded<'a>, StoreError> {
    let mut known = Loaded::default();
    orders(conn, asked, &mut known).await?;
    keys(conn, asked, &mut known).await?;
    events(conn, asked, &mut known).await?;
    deliveries(conn, rules, asked, &mut known).await?;
    versions(conn, asked, &mut known).await?;
    Ok(known)
}

async fn orders<'a>(
    conn: &mut SqliteConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if asked.orders.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        order_columns!(),
        ", o.fingerprint, k.key FROM json_each(?1) k CROSS JOIN orders o ON o.id = k.value"
    );
    for row in &fetch(conn, sql, args![json(&asked.orders)]).await? {
        let id = pick(&asked.orders, row.int(8)?)?;
        known.orders.insert(id, (decode::order(row)?, row.owned(7)?));
    }
    Ok(())
}

async fn keys<'a>(
    conn: &mut SqliteConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if asked.keys.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        order_columns!(),
        ", o.fingerprint, k.key FROM json_each(?1) k CROSS JOIN orders o ON o.idempotency_key = k.value"
    );
    for row in &fetch(conn, sql, args![json(&asked.keys)]).await? {
        let key = pick(&asked.keys, row.int(8)?)?;
        known.keys.insert(key, (decode::order(row)?, row.owned(7)?));
    }
    Ok(())
}

async fn events<'a>(
    conn: &mut SqliteConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if asked.events.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.key FROM json_each(?1) k CROSS JOIN events e ON e.id = k.value ->> 1 AND e.source = k.value ->> 0";
    for row in &fetch(conn, sql, args![json(&asked.events)]).await? {
        known.events.insert(pick(&asked.events, row.int(0)?)?);
    }
    Ok(())
}

async fn deliveries<'a>(
    conn: &mut SqliteConnection,
    rules: &StatusRules,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if asked.deliveries.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = asked
        .deliveries
        .iter()
        .map(|one| (one.key.0, &*one.key.1.source, &*one.key.1.id, one.order))
        .collect();
    let sql = "SELECT k.key, e.seq, d.status = 'open', d.round, d.attempt, d.created_ms, d.queued_ms, \
               coalesce(o.status IN (?2, ?3), 0) \
               FROM json_each(?1) k \
               LEFT JOIN events e ON e.id = k.value ->> 2 AND e.source = k.value ->> 1 \
               LEFT JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 0 \
               LEFT JOIN orders o ON o.id = k.value ->> 3";
    let [cancelling, cancelled] = rules.cancelled_statuses();
    for row in &fetch(conn, sql, args![json(&keys), cancelling, cancelled]).await? {
        let present = match row.maybe_flag(2)? {
            None => None,
            Some(open) => Some(Present {
                open,
                round: row.small(3)?,
                attempt: row.small(4)?,
                created_ms: row.unsigned(5)?,
                queued_ms: row.unsigned(6)?,
            }),
        };
        let seen = Seen { seq: row.maybe_int(1)?, row: present, held: row.flag(7)? };
        known.deliveries.insert(pick(&asked.deliveries, row.int(0)?)?.key, seen);
    }
    Ok(())
}

async fn versions<'a>(
    conn: &mut SqliteConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if asked.versions.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.key, s.version FROM json_each(?1) k CROSS JOIN state s ON s.stage = k.value ->> 0 AND s.key = k.value ->> 1";
    for row in &fetch(conn, sql, args![json(&asked.versions)]).await? {
        known.versions.insert(pick(&asked.versions, row.int(0)?)?, row.int(1)?);
    }
    Ok(())
}
