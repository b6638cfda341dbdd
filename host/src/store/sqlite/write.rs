//! Writes a plan: a constant number of statements, whatever the size of the group.

use std::collections::{BTreeMap, HashMap};

use sqlx::SqliteConnection;

use super::Context;
use super::rows;
use super::sql::{args, execute, execute_all, fetch, json};
use crate::domain::order_status::StatusRules;
use crate::store::StoreError;
use crate::store::decode::Columns as _;
use crate::store::transaction::{Standing, WriteSet};

/// Writes everything.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    context: &Context,
    mut plan: WriteSet<'_>,
) -> Result<(), StoreError> {
    let now_ms = plan.now_ms();
    let written = execute_all(conn, rows::events(&plan.events, now_ms)).await?;
    if written < plan.events.len() as u64 {
        let known = known_positions(conn, &plan).await?;
        plan.renumber(&known);
    }
    execute_all(conn, rows::orders(&plan.orders, now_ms)).await?;
    execute_all(conn, rows::opened(&plan.opened, now_ms)).await?;
    execute_all(conn, rows::deliveries(&plan.settled)).await?;
    execute_all(
        conn,
        rows::outbox(&plan.outbox, (context.host.as_str(), now_ms + context.lease_ms)),
    )
    .await?;
    execute_all(conn, rows::state(&plan.state)).await?;
    execute_all(conn, rows::attempts(&plan.attempts)).await?;
    execute_all(conn, rows::dead(&plan.dead, now_ms)).await?;
    execute_all(conn, rows::recordings(&plan.recordings, now_ms)).await?;
    move_orders(conn, &context.status, &plan).await?;
    if !plan.sent.is_empty() {
        let sql = "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))";
        execute(conn, sql, args![json(&plan.sent)]).await?;
    }
    Ok(())
}

/// Planned position → position in the log, for the events that were known before.
async fn known_positions(
    conn: &mut SqliteConnection,
    plan: &WriteSet<'_>,
) -> Result<HashMap<i64, i64>, StoreError> {
    let keys: Vec<(&str, &str, i64)> = plan
        .events
        .iter()
        .map(|row| (row.envelope.event.source.as_str(), row.envelope.event.id.as_str(), row.seq))
        .collect();
    let sql = "SELECT k.value ->> 2, e.seq FROM json_each(?1) k CROSS JOIN events e \
               ON e.id = k.value ->> 1 AND e.source = k.value ->> 0";
    let rows = fetch(conn, sql, args![json(&keys)]).await?;
    let mut known = HashMap::new();
    for row in &rows {
        let (planned, seq): (i64, i64) = (row.int(0)?, row.int(1)?);
        if planned != seq {
            known.insert(planned, seq);
        }
    }
    Ok(known)
}

/// Brings the status of all concerned orders up to date: one query, the table of rules, one update.
async fn move_orders(
    conn: &mut SqliteConnection,
    rules: &StatusRules,
    plan: &WriteSet<'_>,
) -> Result<(), StoreError> {
    let ids = plan.orders_to_lock(rules);
    if ids.is_empty() {
        return Ok(());
    }
    let sql =
        "SELECT o.id, o.pos, o.status FROM json_each(?1) k CROSS JOIN orders o ON o.id = k.value";
    let rows = fetch(&mut *conn, sql, args![json(&ids)]).await?;
    let mut standing = Standing::new();
    for row in &rows {
        standing.insert(row.text(0)?, (row.int(1)?, row.text(2)?));
    }
    // Nobody else writes: what the decision rested on stands.
    let raced =
        || StoreError::Corrupt("an order moved between a decision and its writing".to_owned());
    let mut moved = plan.moved(rules, &standing).ok_or_else(raced)?;
    let mut ended = plan.may_end(rules, &standing, &moved);
    for order in unfinished(conn, rules, &ended).await? {
        ended.remove(order.as_str());
    }
    moved.extend(ended.into_values().map(|pos| (pos, rules.cancel.done.as_str())));
    if moved.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE orders SET status = k.value ->> 1, updated_ms = ?2 FROM json_each(?1) k WHERE orders.pos = k.value ->> 0";
    let moved: Vec<(i64, &str)> = moved.into_iter().collect();
    execute(conn, sql, args![json(&moved), plan.now_ms() as i64]).await?;
    Ok(())
}

/// Which of these orders have a compensation that waits or has died.
async fn unfinished(
    conn: &mut SqliteConnection,
    rules: &StatusRules,
    orders: &BTreeMap<&str, i64>,
) -> Result<Vec<String>, StoreError> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.order_id, e.type FROM json_each(?1) k CROSS JOIN events e ON e.order_id = k.value \
               CROSS JOIN deliveries d ON d.event_seq = e.seq WHERE d.status IN ('open', 'dead')";
    let ids: Vec<&str> = orders.keys().copied().collect();
    let rows = fetch(conn, sql, args![json(&ids)]).await?;
    rules.compensating(rows.iter().map(|row| Ok((row.owned(0)?, row.text(1)?))))
}
