//! Writes a plan: a constant number of statements, whatever the size of the group, tables always in
//! the same order.
//!
//! Guarantee carried here: every row that a decision rested on is verified by the statement that
//! writes or locks it. A statement that does not find what it expects makes the whole group
//! `Raced`: it is rolled back, and decided again from what stands there now. Rows of one statement
//! are taken in the order of their keys, so two groups seldom wait for each other in a circle; when
//! they do, the database breaks the circle and one of them runs again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::PgConnection;
use sqlx::postgres::PgArguments;

use super::Context;
use super::sql::{Refused, args, columns, execute, fetch, list, push};
use crate::domain::order_status::StatusRules;
use crate::store::decode::{Columns as _, status_name};
use crate::store::transaction::{DeliveryRow, Standing, StateRow, WriteSet};

/// Writes everything.
pub(super) async fn write(
    conn: &mut PgConnection,
    context: &Context,
    mut plan: WriteSet<'_>,
) -> Result<(), Refused> {
    events(conn, &mut plan).await?;
    orders(conn, &plan).await?;
    opened(conn, &plan).await?;
    deliveries(conn, &plan).await?;
    relied_upon(conn, &plan).await?;
    state(conn, &plan.state).await?;
    outbox(conn, context, &plan).await?;
    attempts(conn, &plan).await?;
    dead(conn, &plan).await?;
    recordings(conn, &plan).await?;
    move_orders(conn, &context.status, &plan).await?;
    if !plan.sent.is_empty() {
        execute(conn, "DELETE FROM outbox WHERE id = ANY($1)", args![&plan.sent]).await?;
    }
    Ok(())
}

fn expect(found: u64, expected: usize) -> Result<(), Refused> {
    if found == expected as u64 { Ok(()) } else { Err(Refused::Raced) }
}

async fn events(conn: &mut PgConnection, plan: &mut WriteSet<'_>) -> Result<(), Refused> {
    if plan.events.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO events (seq, id, source, type, subject, time_ms, content_type, data, attributes, order_id, correlation_id, \
               cause_source, cause_id, hops, expires_ms, stage, digest, routed_to, due_ms, logged_ms) \
               SELECT k.*, $20 FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::text[], $8::bytea[], \
               $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int8[], $15::int8[], $16::text[], $17::text[], \
               $18::text[], $19::int8[]) k ON CONFLICT (id, source) DO NOTHING";
    let mut args = columns![&plan.events;
        |row| row.seq,
        |row| row.envelope.event.id.as_str(),
        |row| row.envelope.event.source.as_str(),
        |row| row.envelope.event.event_type.as_str(),
        |row| row.envelope.event.subject.as_str(),
        |row| row.envelope.event.time_ms as i64,
        |row| row.envelope.event.content_type.as_str(),
        |row| &row.envelope.event.data[..],
        |row| list(&row.envelope.event.attributes),
        |row| row.envelope.order_id.as_deref(),
        |row| row.envelope.correlation_id.as_str(),
        |row| row.envelope.cause.as_ref().map(|cause| cause.source.as_str()),
        |row| row.envelope.cause.as_ref().map(|cause| cause.id.as_str()),
        |row| i64::from(row.envelope.hops),
        |row| row.envelope.expires_at_ms as i64,
        |row| row.producer.map(|producer| producer.0),
        |row| row.producer.map(|producer| producer.1),
        |row| list(&row.routed_to),
        |row| row.due_ms.map(|due_ms| due_ms as i64),
    ];
    push(&mut args, plan.now_ms() as i64);
    if execute(conn, sql, args).await? < plan.events.len() as u64 {
        let known = known_positions(conn, plan).await?;
        plan.renumber(&known);
    }
    Ok(())
}

/// Planned position → position in the log, for the events that were known before.
async fn known_positions(
    conn: &mut PgConnection,
    plan: &WriteSet<'_>,
) -> Result<HashMap<i64, i64>, Refused> {
    let sql = "SELECT k.seq, e.seq FROM unnest($1::text[], $2::text[], $3::int8[]) k (source, id, seq) \
               JOIN events e ON e.id = k.id AND e.source = k.source WHERE e.seq <> k.seq";
    let args = columns![&plan.events; |row| row.envelope.event.source.as_str(), |row| row.envelope.event.id.as_str(), |row| row.seq];
    let rows = fetch(conn, sql, args).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

async fn orders(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.orders.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO orders (id, customer, status, body, fingerprint, idempotency_key, created_ms, updated_ms) \
               SELECT k.*, $7, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) k \
               ON CONFLICT DO NOTHING";
    let mut args = columns![&plan.orders;
        |row| row.0.id.as_str(),
        |row| row.0.customer.as_deref(),
        |row| row.0.status.as_str(),
        |row| row.0.body.to_string(),
        |row| row.0.fingerprint.as_str(),
        |row| row.0.idempotency_key.as_deref(),
    ];
    push(&mut args, plan.now_ms() as i64);
    expect(execute(conn, sql, args).await?, plan.orders.len())
}

async fn opened(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.opened.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO deliveries (event_seq, stage, queued_ms, round, attempt, status, created_ms) \
               SELECT k.*, 1, 1, 'open', $4 FROM unnest($1::int8[], $2::text[], $3::int8[]) k ON CONFLICT DO NOTHING";
    let mut args =
        columns![&plan.opened; |row| row.seq, |row| row.stage, |row| row.queued_ms as i64];
    push(&mut args, plan.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

async fn deliveries(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    let (standing, adopted): (Vec<&DeliveryRow<'_>>, Vec<&DeliveryRow<'_>>) =
        plan.settled.iter().partition(|row| row.expected.is_some());
    if !standing.is_empty() {
        // Open is what was not settled. ReadSet for by its status, the planner would walk the index
        // of all open deliveries, and over all those that were open since the last vacuum.
        let sql = "UPDATE deliveries d SET round = k.round, attempt = k.attempt, status = k.status, version = k.version, \
                   digest = k.digest, duration_us = k.duration_us, emitted = k.emitted, queued_ms = k.queued_ms, \
                   settled_ms = k.settled_ms \
                   FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::int8[], \
                   $9::text[], $10::int8[], $11::int8[], $12::int8[], $13::int8[]) \
                   k (seq, stage, round, attempt, status, version, digest, duration_us, emitted, queued_ms, settled_ms, was_round, \
                   was_attempt) \
                   WHERE d.event_seq = k.seq AND d.stage = k.stage AND d.settled_ms IS NULL AND d.round = k.was_round \
                   AND d.attempt = k.was_attempt";
        let mut args = settled_columns(&standing);
        push(
            &mut args,
            standing.iter().map(|row| row.expected.map(|was| i64::from(was.0))).collect::<Vec<_>>(),
        );
        push(
            &mut args,
            standing.iter().map(|row| row.expected.map(|was| i64::from(was.1))).collect::<Vec<_>>(),
        );
        expect(execute(conn, sql, args).await?, standing.len())?;
    }
    if !adopted.is_empty() {
        let sql = "INSERT INTO deliveries (event_seq, stage, round, attempt, status, version, digest, duration_us, emitted, \
                   queued_ms, settled_ms, created_ms) \
                   SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::text[], \
                   $8::int8[], $9::text[], $10::int8[], $11::int8[], $12::int8[]) ON CONFLICT DO NOTHING";
        let mut args = settled_columns(&adopted);
        push(&mut args, adopted.iter().map(|row| row.created_ms as i64).collect::<Vec<_>>());
        expect(execute(conn, sql, args).await?, adopted.len())?;
    }
    Ok(())
}

/// What a delivery is after its try, one array a column.
fn settled_columns(rows: &[&DeliveryRow<'_>]) -> PgArguments {
    columns![rows;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.round),
        |row| i64::from(row.attempt),
        |row| status_name(row.status),
        |row| row.settled.as_ref().map(|by| by.version),
        |row| row.settled.as_ref().map(|by| by.digest),
        |row| row.settled.as_ref().map(|by| by.duration_us as i64),
        |row| list(&row.emitted),
        |row| row.queued_ms as i64,
        |row| row.settled.as_ref().map(|by| by.at_ms as i64),
    ]
}

/// Verifies the versions of what was read and not written. Everything that the group reads or
/// writes is locked before, in one order, so that two groups never wait for each other in a circle.
/// A key that was absent gets a row, so that there is something to lock: nobody else can bring it
/// into being before this commit. A group that only reads what it writes needs none of this.
async fn relied_upon(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.relied_upon.is_empty() {
        return Ok(());
    }
    let keys: BTreeSet<(&str, &str)> =
        plan.relied_upon.iter().chain(&plan.state).map(|row| (row.stage, row.key)).collect();
    lock_keys(conn, &keys).await?;
    let sql = "SELECT count(*) FROM unnest($1::text[], $2::text[], $3::int8[]) k (stage, key, version) \
               JOIN state s ON s.stage = k.stage AND s.key = k.key AND s.version = k.version";
    let found = fetch(
        conn,
        sql,
        columns![&plan.relied_upon; |row| row.stage, |row| row.key, |row| row.version],
    )
    .await?;
    let found = found.first().map_or(Ok(0), |row| row.unsigned(0))?;
    expect(found, plan.relied_upon.len())
}

/// Locks state keys in their order; an absent one gets a row of version 0.
pub(super) async fn lock_keys(
    conn: &mut PgConnection,
    keys: &BTreeSet<(&str, &str)>,
) -> Result<(), Refused> {
    // The condition never holds: a row that is there is locked and left as it is.
    let sql = "INSERT INTO state AS s (stage, key, version) SELECT k.*, 0 FROM unnest($1::text[], $2::text[]) k (stage, key) \
               ORDER BY stage, key ON CONFLICT (stage, key) DO UPDATE SET version = s.version WHERE FALSE";
    execute(conn, sql, columns![&keys; |key| key.0, |key| key.1]).await?;
    Ok(())
}

/// Writes each key over the version that stands there. A key that several batches of the group
/// wrote is written several times, one statement after another.
async fn state(conn: &mut PgConnection, rows: &[StateRow<'_>]) -> Result<(), Refused> {
    let sql = "INSERT INTO state AS s (stage, key, value, version) \
               SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::int8[]) k (stage, key, value, version) \
               ORDER BY stage, key ON CONFLICT (stage, key) DO UPDATE SET value = excluded.value, version = excluded.version \
               WHERE s.version = excluded.version - 1";
    let mut rest: Vec<&StateRow<'_>> = rows.iter().collect();
    while !rest.is_empty() {
        let mut taken = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|row| taken.insert((row.stage, row.key)));
        let args =
            columns![&now; |row| row.stage, |row| row.key, |row| row.value, |row| row.version];
        expect(execute(conn, sql, args).await?, now.len())?;
        rest = later;
    }
    Ok(())
}

async fn outbox(
    conn: &mut PgConnection,
    context: &Context,
    plan: &WriteSet<'_>,
) -> Result<(), Refused> {
    if plan.outbox.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox (id, event_seq, due_ms, owner, lease_until_ms, stage, round, attempt) \
               SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::text[], $5::int8[], $6::text[], $7::int8[], $8::int8[])";
    let lease_until_ms = (plan.now_ms() + context.lease_ms) as i64;
    let args = columns![&plan.outbox;
        |row| row.id,
        |row| row.seq,
        |row| row.due_ms as i64,
        |row| row.leased.then_some(context.host.as_str()),
        |row| row.leased.then_some(lease_until_ms),
        |row| row.direct.as_ref().map(|direct| &*direct.stage),
        |row| row.direct.as_ref().map(|direct| i64::from(direct.round)),
        |row| row.direct.as_ref().map(|direct| i64::from(direct.attempt)),
    ];
    execute(conn, sql, args).await?;
    Ok(())
}

async fn attempts(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.attempts.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO attempts (event_seq, stage, round, attempt, code, message, backtrace, digest, duration_us, at_ms) \
               SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::text[], \
               $9::int8[], $10::int8[]) ON CONFLICT DO NOTHING";
    let args = columns![&plan.attempts;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.failure.round),
        |row| i64::from(row.failure.attempt),
        |row| row.failure.code.as_str(),
        |row| row.failure.message.as_str(),
        |row| row.failure.backtrace.as_deref(),
        |row| row.failure.digest.as_str(),
        |row| row.failure.duration_us as i64,
        |row| row.failure.at_ms as i64,
    ];
    execute(conn, sql, args).await?;
    Ok(())
}

async fn dead(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.dead.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO dead_letters (event_seq, stage, round, code, message, digest, fingerprint, group_id, dead_lettered_ms, status) \
               SELECT k.*, $9, 'open' FROM unnest($1::int8[], $2::text[], $3::int8[], $4::text[], $5::text[], $6::text[], $7::text[], \
               $8::text[]) k";
    let mut args = columns![&plan.dead;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.round),
        |row| row.code,
        |row| row.message,
        |row| row.digest,
        |row| row.fingerprint.text.as_str(),
        |row| row.fingerprint.group.as_str(),
    ];
    push(&mut args, plan.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

async fn recordings(conn: &mut PgConnection, plan: &WriteSet<'_>) -> Result<(), Refused> {
    if plan.recordings.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO recordings (stage, event_seq, body, settled_ms) \
               SELECT k.*, $4 FROM unnest($1::text[], $2::int8[], $3::text[]) k ON CONFLICT DO NOTHING";
    let mut args = columns![&plan.recordings; |row| row.stage, |row| row.seq, |row| row.body];
    push(&mut args, plan.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

/// Brings the status of all concerned orders up to date: one query that locks them, the table of
/// rules, one update. Whoever settles the last compensation of a cancelled order sees, under the
/// order's lock, that it is the last.
async fn move_orders(
    conn: &mut PgConnection,
    rules: &StatusRules,
    plan: &WriteSet<'_>,
) -> Result<(), Refused> {
    let ids = plan.orders_to_lock(rules);
    if ids.is_empty() {
        return Ok(());
    }
    let sql =
        "SELECT id, pos, status FROM orders WHERE id = ANY($1) ORDER BY pos FOR NO KEY UPDATE";
    let rows = fetch(&mut *conn, sql, args![&ids]).await?;
    let mut standing = Standing::new();
    for row in &rows {
        standing.insert(row.text(0)?, (row.int(1)?, row.text(2)?));
    }
    let mut moved = plan.moved(rules, &standing).ok_or(Refused::Raced)?;
    let mut ended = plan.may_end(rules, &standing, &moved);
    for order in unfinished(conn, rules, &ended).await? {
        ended.remove(order.as_str());
    }
    moved.extend(ended.into_values().map(|pos| (pos, rules.cancel.done.as_str())));
    if moved.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE orders o SET status = k.status, updated_ms = $3 FROM unnest($1::int8[], $2::text[]) k (pos, status) \
               WHERE o.pos = k.pos";
    let mut args = columns![&moved; |row| *row.0, |row| *row.1];
    push(&mut args, plan.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

/// Which of these orders have a compensation that waits or has died.
async fn unfinished(
    conn: &mut PgConnection,
    rules: &StatusRules,
    orders: &BTreeMap<&str, i64>,
) -> Result<Vec<String>, Refused> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.order_id, e.type FROM events e JOIN deliveries d ON d.event_seq = e.seq \
               WHERE e.order_id = ANY($1) AND d.status IN ('open', 'dead')";
    let ids: Vec<&str> = orders.keys().copied().collect();
    let rows = fetch(conn, sql, args![&ids]).await?;
    let unfinished =
        rows.iter().map(|row| Ok::<_, crate::store::StoreError>((row.owned(0)?, row.text(1)?)));
    Ok(rules.compensating(unfinished)?)
}
