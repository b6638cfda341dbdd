//! Inserts new deliveries, and updates those of which an attempt ended.

use sqlx::PgConnection;
use sqlx::postgres::PgArguments;

use super::expect;
use crate::store::decode::status_name;
use crate::store::postgres::sql::{TransactionError, columns, execute, list, push};
use crate::store::transaction::{DeliveryRow, NumberedWriteSet};

pub(super) async fn open(
    conn: &mut PgConnection,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.open_deliveries.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO deliveries (event_seq, stage, queued_ms, round, attempt, status, \
               created_ms) \
               SELECT k.*, 1, 1, 'open', $4 FROM unnest($1::int8[], $2::text[], $3::int8[]) k ON \
               CONFLICT DO NOTHING";
    let mut args = columns![&write_set.open_deliveries; |row| row.seq, |row| &**row.stage, |row| row.queued_ms as i64];
    push(&mut args, write_set.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

pub(super) async fn settle(
    conn: &mut PgConnection,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    let (stored, adopted): (Vec<&DeliveryRow<'_>>, Vec<&DeliveryRow<'_>>) =
        write_set.deliveries.iter().partition(|row| row.expected.is_some());
    if !stored.is_empty() {
        // An open delivery is one without `settled_ms`. With a condition on its status, the planner
        // would walk the index of open deliveries, and all entries since the last vacuum.
        let sql = "UPDATE deliveries d SET round = k.round, attempt = k.attempt, status = \
                   k.status, version = k.version, \
                   digest = k.digest, host = k.host, duration_us = k.duration_us, emitted = \
                   k.emitted, queued_ms = k.queued_ms, \
                   settled_ms = k.settled_ms \
                   FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::text[], \
                   $6::text[], $7::text[], $8::text[], $9::int8[], \
                   $10::text[], $11::int8[], $12::int8[], $13::int8[], $14::int8[]) \
                   k (seq, stage, round, attempt, status, version, digest, host, duration_us, \
                   emitted, queued_ms, settled_ms, expected_round, \
                   expected_attempt) \
                   WHERE d.event_seq = k.seq AND d.stage = k.stage AND d.settled_ms IS NULL AND \
                   d.round = k.expected_round \
                   AND d.attempt = k.expected_attempt";
        let mut args = settled_columns(&stored);
        push(
            &mut args,
            stored
                .iter()
                .map(|row| row.expected.map(|expected| i64::from(expected.0)))
                .collect::<Vec<_>>(),
        );
        push(
            &mut args,
            stored
                .iter()
                .map(|row| row.expected.map(|expected| i64::from(expected.1)))
                .collect::<Vec<_>>(),
        );
        expect(execute(conn, sql, args).await?, stored.len())?;
    }
    if !adopted.is_empty() {
        let sql = "INSERT INTO deliveries (event_seq, stage, round, attempt, status, version, \
                   digest, host, duration_us, emitted, \
                   queued_ms, settled_ms, created_ms) \
                   SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], \
                   $5::text[], $6::text[], $7::text[], $8::text[], \
                   $9::int8[], $10::text[], $11::int8[], $12::int8[], $13::int8[]) ON CONFLICT DO \
                   NOTHING";
        let mut args = settled_columns(&adopted);
        push(&mut args, adopted.iter().map(|row| row.created_ms as i64).collect::<Vec<_>>());
        expect(execute(conn, sql, args).await?, adopted.len())?;
    }
    Ok(())
}

/// Deliveries after an attempt, one array per column.
fn settled_columns(rows: &[&DeliveryRow<'_>]) -> PgArguments {
    columns![rows;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.round),
        |row| i64::from(row.attempt),
        |row| status_name(row.status),
        |row| row.settled.as_ref().map(|by| by.version),
        |row| row.settled.as_ref().map(|by| by.digest),
        |row| row.host,
        |row| row.settled.as_ref().map(|by| by.duration_us as i64),
        |row| list(&row.emitted),
        |row| row.queued_ms as i64,
        |row| row.settled.as_ref().map(|by| by.at_ms as i64),
    ]
}
