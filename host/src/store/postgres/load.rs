//! Asks the database what a group of operations must know: one query per table, whatever the size
//! of the group.
//!
//! Nothing is locked here. What was read is verified by the statements that write: each names the
//! row it expects to find.

use sqlx::PgConnection;

use super::sql::{Refused, args, columns, fetch, push};
use crate::domain::order_status::StatusRules;
use crate::store::decode::{self, Columns as _, order_columns};
use crate::store::transaction::{Loaded, Present, ReadSet, Seen, pick};

/// Answers all that is asked.
pub(super) async fn load<'a>(
    conn: &mut PgConnection,
    rules: &StatusRules,
    asked: &ReadSet<'a>,
) -> Result<Loaded<'a>, Refused> {
    let mut known = Loaded::default();
    orders(conn, asked, &mut known).await?;
    keys(conn, asked, &mut known).await?;
    events(conn, asked, &mut known).await?;
    deliveries(conn, rules, asked, &mut known).await?;
    versions(conn, asked, &mut known).await?;
    Ok(known)
}

async fn orders<'a>(
    conn: &mut PgConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), Refused> {
    if asked.orders.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        order_columns!(),
        ", o.fingerprint, k.at FROM unnest($1) WITH ORDINALITY k (id, at) JOIN orders o USING (id)"
    );
    for row in &fetch(conn, sql, args![&asked.orders]).await? {
        let id = pick(&asked.orders, row.int(8)? - 1)?;
        known.orders.insert(id, (decode::order(row)?, row.owned(7)?));
    }
    Ok(())
}

async fn keys<'a>(
    conn: &mut PgConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), Refused> {
    if asked.keys.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        order_columns!(),
        ", o.fingerprint, k.at FROM unnest($1) WITH ORDINALITY k (key, at) JOIN orders o ON o.idempotency_key = k.key"
    );
    for row in &fetch(conn, sql, args![&asked.keys]).await? {
        let key = pick(&asked.keys, row.int(8)? - 1)?;
        known.keys.insert(key, (decode::order(row)?, row.owned(7)?));
    }
    Ok(())
}

async fn events<'a>(
    conn: &mut PgConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), Refused> {
    if asked.events.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.at FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k (source, id, at) JOIN events e USING (id, source)";
    for row in &fetch(conn, sql, columns![&asked.events; |key| key.0, |key| key.1]).await? {
        known.events.insert(pick(&asked.events, row.int(0)? - 1)?);
    }
    Ok(())
}

async fn deliveries<'a>(
    conn: &mut PgConnection,
    rules: &StatusRules,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), Refused> {
    if asked.deliveries.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.at, e.seq, d.status = 'open', d.round, d.attempt, d.created_ms, d.queued_ms, \
               coalesce(o.status IN ($5, $6), FALSE) \
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY k (stage, source, id, order_id, at) \
               LEFT JOIN events e ON e.id = k.id AND e.source = k.source \
               LEFT JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.stage \
               LEFT JOIN orders o ON o.id = k.order_id";
    let mut args = columns![&asked.deliveries;
        |one| one.key.0, |one| one.key.1.source.as_str(), |one| one.key.1.id.as_str(), |one| one.order];
    for status in rules.cancelled_statuses() {
        push(&mut args, status);
    }
    for row in &fetch(conn, sql, args).await? {
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
        known.deliveries.insert(pick(&asked.deliveries, row.int(0)? - 1)?.key, seen);
    }
    Ok(())
}

async fn versions<'a>(
    conn: &mut PgConnection,
    asked: &ReadSet<'a>,
    known: &mut Loaded<'a>,
) -> Result<(), Refused> {
    if asked.versions.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.at, s.version FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k (stage, key, at) \
               JOIN state s ON s.stage = k.stage AND s.key = k.key";
    for row in &fetch(conn, sql, columns![&asked.versions; |key| key.0, |key| key.1]).await? {
        known.versions.insert(pick(&asked.versions, row.int(0)? - 1)?, row.int(1)?);
    }
    Ok(())
}
