//! The outbox and the refill of queues. Leases count by the database's clock, so hosts need not
//! agree about the time.
//!
//! Guarantee: one host at a time leases a row, and an expired lease frees it. Bounded by the
//! caller's limits of rows and bytes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch, list, store_error};
use super::transaction::PooledTransaction;
use super::write;
use crate::domain::event::EventKey;
use crate::store::decode::{self, Columns as _, envelope_columns, outbox_columns};
use crate::store::outbox::send_again;
use crate::store::transaction::Sender;
use crate::store::unrouted::{Routed, RoutedEvents, Routing, count_unrouted};
use crate::store::{LostDeliveries, NarrowedRow, OutboxRow, StoreError, UnroutedEvents, unrouted};

/// The time that leases count by: the first placeholder, or the database's own.
macro_rules! now {
    () => {
        "coalesce($1::int8, (extract(epoch FROM statement_timestamp()) * 1000)::int8)"
    };
}
pub(super) use now;

/// A time that is later than any, and far from the end of the range.
const TIME_MAX_MS: u64 = 1 << 60;

/// A number of bytes as the database counts them.
fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Leases rows that are due or whose lease expired, the earliest first, at most `limit` of them, and
/// none once the data of their events has `max_bytes`.
pub(super) async fn claim(
    db: &Pool,
    context: &Context,
    (limit, max_bytes): (u32, u64),
) -> Result<Vec<OutboxRow>, StoreError> {
    let sql = concat!(
        "WITH found AS (SELECT id, event_seq, coalesce(lease_until_ms, due_ms) AS at_ms FROM outbox \
         WHERE coalesce(lease_until_ms, due_ms) <= ",
        now!(),
        " ORDER BY coalesce(lease_until_ms, due_ms) LIMIT $2 FOR UPDATE SKIP LOCKED), \
         due AS (SELECT id FROM (SELECT f.id, sum(octet_length(e.data)) OVER \
         (ORDER BY f.at_ms, f.id) - octet_length(e.data) AS bytes_before FROM found f \
         JOIN events e ON e.seq = f.event_seq) f WHERE bytes_before < $5) \
         UPDATE outbox o SET owner = $3, lease_until_ms = ",
        now!(),
        " + $4 FROM due, events e WHERE o.id = due.id AND e.seq = o.event_seq RETURNING ",
        outbox_columns!(),
        ", o.due_ms"
    );
    let args = args![
        context.fixed_time(),
        i64::from(limit),
        context.host.as_str(),
        context.lease_ms as i64,
        bytes(max_bytes)
    ];
    let rows = fetch(db, sql, args).await.map_err(|error| store_error(&error))?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        claimed.push((row.int(21)?, decode::outbox_row(row, &context.encryption)?));
    }
    claimed.sort_by_key(|(due_ms, row)| (*due_ms, row.id));
    Ok(claimed.into_iter().map(|(_, row)| row).collect())
}

/// Releases rows until they are due again.
pub(super) async fn postpone(
    db: &Pool,
    context: &Context,
    ids: &[i64],
    delay_ms: u64,
) -> Result<(), StoreError> {
    let sql = concat!(
        "UPDATE outbox SET owner = NULL, lease_until_ms = NULL, due_ms = ",
        now!(),
        " + $3 WHERE id = ANY($2)"
    );
    fetch(db, sql, args![context.fixed_time(), ids, delay_ms as i64])
        .await
        .map(|_| ())
        .map_err(|error| store_error(&error))
}

/// Replaces rows with one row for each stage that did not confirm.
pub(super) async fn narrow(
    db: &Pool,
    context: &Context,
    rows: &[NarrowedRow],
    delay_ms: u64,
) -> Result<(), TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let sql = "SELECT id, event_seq FROM outbox WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    let mut positions = HashMap::new();
    for row in &fetch(&mut *transaction, sql, args![ids]).await? {
        positions.insert(row.int(0)?, row.int(1)?);
    }
    let mut write_set = transaction.started.write_set(context);
    write_set.narrow(rows, &positions, delay_ms);
    write::write(&mut transaction, context, write_set).await?;
    transaction.commit().await
}

/// Records that this host holds the messages of open deliveries. Rows that a transaction is settling
/// are left out.
pub(super) async fn mark_held(
    db: &Pool,
    context: &Context,
    stage: &str,
    held: &[EventKey],
) -> Result<(), StoreError> {
    let sql = concat!(
        "WITH held AS (SELECT d.event_seq FROM unnest($3::text[], $4::text[]) k (source, id) \
         JOIN events e ON e.id = k.id AND e.source = k.source \
         JOIN deliveries d ON d.event_seq = e.seq AND d.stage = $2 AND d.status = 'open' \
         AND d.queued_ms < ",
        now!(),
        " FOR UPDATE OF d SKIP LOCKED) \
         UPDATE deliveries d SET queued_ms = ",
        now!(),
        " FROM held WHERE d.event_seq = held.event_seq AND d.stage = $2"
    );
    let sources: Vec<&str> = held.iter().map(|key| key.source.as_str()).collect();
    let ids: Vec<&str> = held.iter().map(|key| key.id.as_str()).collect();
    let args = args![context.fixed_time(), stage, sources, ids];
    fetch(db, sql, args).await.map(|_| ()).map_err(|error| store_error(&error))
}

/// Adds outbox rows for open deliveries that were queued long ago and have none.
pub(super) async fn requeue_lost(
    db: &Pool,
    context: &Context,
    stage: &str,
    lost: LostDeliveries,
) -> Result<Vec<OutboxRow>, TransactionError> {
    // Mostly there are none, and that costs no transaction.
    let sql = concat!(
        "SELECT 1 FROM deliveries d WHERE d.stage = $2 AND d.status = 'open' AND d.queued_ms < \
         least($3, ",
        now!(),
        " - $4) AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.event_seq = d.event_seq AND \
         (o.stage IS NULL OR o.stage = d.stage)) ORDER BY d.queued_ms LIMIT 1"
    );
    let before_ms = lost.queued_before_ms.min(TIME_MAX_MS) as i64;
    // Without an age the gap's own time counts, whatever the clocks say.
    let min_age_ms = if lost.min_age_ms == 0 { -before_ms } else { lost.min_age_ms as i64 };
    let args = args![context.fixed_time(), stage, before_ms, min_age_ms];
    if fetch(db, sql, args).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let sql = concat!(
        "WITH found AS (SELECT d.event_seq, d.stage, d.queued_ms AS was_queued_ms FROM deliveries d \
         WHERE d.stage = $1 AND d.status = 'open' AND d.queued_ms < $2 AND NOT EXISTS \
         (SELECT 1 FROM outbox o WHERE o.event_seq = d.event_seq AND (o.stage IS NULL OR o.stage \
         = d.stage)) \
         ORDER BY d.queued_ms, d.event_seq LIMIT $3 FOR UPDATE SKIP LOCKED), \
         lost AS (SELECT event_seq, stage, was_queued_ms FROM (SELECT f.*, \
         sum(octet_length(e.data)) OVER (ORDER BY f.was_queued_ms, f.event_seq) - \
         octet_length(e.data) AS bytes_before FROM found f JOIN events e ON e.seq = f.event_seq) f \
         WHERE bytes_before < $5) \
         UPDATE deliveries d SET queued_ms = $4 FROM lost, events e \
         WHERE d.event_seq = lost.event_seq AND d.stage = lost.stage AND e.seq = d.event_seq \
         RETURNING lost.was_queued_ms, d.event_seq, d.round, d.attempt, ",
        envelope_columns!()
    );
    let before_ms = lost.queued_before_ms(now_ms) as i64;
    let max_bytes = bytes(lost.max_bytes);
    let args = args![stage, before_ms, i64::from(lost.limit), now_ms as i64, max_bytes];
    let mut rows = fetch(&mut *transaction, sql, args).await?;
    rows.sort_by_key(|row| (row.int(0).ok(), row.int(1).ok()));
    let stage: Arc<str> = stage.into();
    let mut write_set = transaction.started.write_set(context);
    let sent = send_again(&mut write_set, &stage, &rows, 1, &context.encryption)?;
    write::write(&mut transaction, context, write_set).await?;
    transaction.commit().await?;
    Ok(sent)
}

/// Adds an outbox row for each of these deliveries that is open and has none.
pub(super) async fn requeue(
    db: &Pool,
    context: &Context,
    stage: &str,
    events: &[EventKey],
) -> Result<(), TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let sql = concat!(
        "SELECT d.event_seq, d.round, d.attempt, ",
        envelope_columns!(),
        " FROM unnest($2::text[], $3::text[]) k (source, id) \
         JOIN events e ON e.id = k.id AND e.source = k.source \
         JOIN deliveries d ON d.event_seq = e.seq AND d.stage = $1 AND d.status = 'open' \
         WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.event_seq = d.event_seq AND \
         (o.stage IS NULL OR o.stage = d.stage)) ORDER BY d.event_seq FOR UPDATE OF d"
    );
    let sources: Vec<&str> = events.iter().map(|key| key.source.as_str()).collect();
    let ids: Vec<&str> = events.iter().map(|key| key.id.as_str()).collect();
    let rows = fetch(&mut *transaction, sql, args![stage, sources, ids]).await?;
    let mut write_set = transaction.started.write_set(context).sent_by(Sender::AnyHost);
    let none = send_again(&mut write_set, &stage.into(), &rows, 0, &context.encryption)?;
    debug_assert!(none.is_empty(), "any host sends them");
    write::write(&mut transaction, context, write_set).await?;
    transaction.commit().await
}

/// Counts the events that wait for a stage.
pub(super) async fn unrouted(
    db: &Pool,
    context: &Context,
) -> Result<Vec<UnroutedEvents>, StoreError> {
    let sql = count_unrouted!("<> ALL($1)");
    let rows = fetch(db, sql, args![context.kinds.finished_statuses()]).await;
    unrouted::decode(&rows.map_err(|error| store_error(&error))?)
}

/// Routes events that waited. Several hosts may do so at the same time: each skips events that
/// another one has locked.
pub(super) async fn route(
    db: &Pool,
    context: &Context,
    routing: &Routing,
) -> Result<Routed, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let sql = concat!(
        "SELECT e.seq, sub.status, e.due_ms, ",
        envelope_columns!(),
        " FROM events e LEFT JOIN subjects sub ON sub.key = e.subject_key WHERE e.type = $1 AND \
         e.unrouted_ms IS NOT NULL ORDER BY e.seq LIMIT $2 FOR UPDATE OF e SKIP LOCKED"
    );
    let args = args![routing.event_type.as_str(), i64::from(routing.limit)];
    let rows = fetch(&mut *transaction, sql, args).await?;
    let mut write_set = transaction.started.write_set(context);
    let RoutedEvents { all, sent, outbox } =
        routing.route(&rows, &mut write_set, &context.encryption)?;
    let sql = "UPDATE events SET unrouted_ms = NULL WHERE seq = ANY($1)";
    execute(&mut transaction, sql, args![all]).await?;
    let sql = "UPDATE events SET routed_to = $2, expires_ms = greatest(expires_ms, $3) WHERE seq = \
               ANY($1)";
    let args = args![sent, list(&routing.stages), routing.expires_at_ms as i64];
    execute(&mut transaction, sql, args).await?;
    write::write(&mut transaction, context, write_set).await?;
    transaction.commit().await?;
    Ok(Routed { events: rows.len() as u32, outbox })
}
