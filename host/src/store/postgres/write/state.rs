//! Verifies and writes the stages' state.

use std::collections::{BTreeSet, HashSet};

use sqlx::PgConnection;

use super::expect;
use crate::domain::encryption::Encryption;
use crate::store::decode::Columns as _;
use crate::store::postgres::sql::{TransactionError, columns, push};
use crate::store::postgres::state_tables::StateTables;
use crate::store::transaction::{NumberedWriteSet, StateWrite};

/// Verifies the versions of keys that were read and not written. First locks every key that the group
/// reads or writes, in one order, so that two groups never wait for each other. An absent key gets a
/// row to lock: no other transaction can create it before this commit. A group that only reads what
/// it writes needs none of this.
pub(super) async fn verify_reads(
    conn: &mut PgConnection,
    tables: &StateTables,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.verified_reads.is_empty() {
        return Ok(());
    }
    let keys: BTreeSet<(&str, &str)> = write_set
        .verified_reads
        .iter()
        .chain(&write_set.state)
        .map(|row| (row.stage, row.key))
        .collect();
    lock_keys(conn, tables, &keys, write_set.now_ms()).await?;
    let sql = "SELECT count(*) FROM unnest($1::text[], $2::text[], $3::int8[]) k (stage, key, \
               version) \
               JOIN state AS s ON s.stage = k.stage AND s.key = k.key AND s.version = k.version";
    for (table, reads) in tables.group(&write_set.verified_reads, |row| row.stage) {
        let args = columns![&reads; |row| row.stage, |row| row.key, |row| row.version];
        let found = table.fetch(&mut *conn, sql, args).await?;
        let found = found.first().map_or(Ok(0), |row| row.unsigned(0))?;
        expect(found, reads.len())?;
    }
    Ok(())
}

/// Locks state keys in their order; an absent one gets a row with version 0.
pub(in crate::store::postgres) async fn lock_keys(
    conn: &mut PgConnection,
    tables: &StateTables,
    keys: &BTreeSet<(&str, &str)>,
    now_ms: u64,
) -> Result<(), TransactionError> {
    // The condition never holds: an existing row is locked and not changed.
    let sql = "INSERT INTO state AS s (stage, key, version, removed_ms) SELECT k.*, 0, $3 FROM \
               unnest($1::text[], $2::text[]) k (stage, key) \
               ORDER BY stage, key ON CONFLICT (stage, key) DO UPDATE SET version = s.version \
               WHERE FALSE";
    for (table, keys) in tables.group(keys, |key| key.0) {
        let mut args = columns![&keys; |key| key.0, |key| key.1];
        push(&mut args, now_ms as i64);
        table.execute(conn, sql, args).await?;
    }
    Ok(())
}

/// Writes each key over the version before it. A key that several batches of the group wrote is
/// written several times, one statement after another.
pub(super) async fn write(
    conn: &mut PgConnection,
    (tables, encryption): (&StateTables, &Encryption),
    rows: &[StateWrite<'_>],
    now_ms: u64,
) -> Result<(), TransactionError> {
    let sql = "INSERT INTO state AS s (stage, key, value, version, removed_ms) \
               SELECT k.*, CASE WHEN k.value IS NULL THEN $5::int8 END FROM unnest($1::text[], \
               $2::text[], $3::bytea[], $4::int8[]) k (stage, key, value, version) \
               ORDER BY stage, key ON CONFLICT (stage, key) DO UPDATE SET value = excluded.value, \
               version = excluded.version, removed_ms = excluded.removed_ms \
               WHERE s.version = excluded.version - 1";
    let mut rest: Vec<&StateWrite<'_>> = rows.iter().collect();
    while !rest.is_empty() {
        let mut keys = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|row| keys.insert((row.stage, row.key)));
        for (table, rows) in tables.group(now, |row| row.stage) {
            let values: Vec<_> = rows.iter().map(|row| row.stored_value(encryption)).collect();
            let mut args = columns![&rows; |row| row.stage, |row| row.key];
            push(&mut args, values.iter().map(Option::as_deref).collect::<Vec<Option<&[u8]>>>());
            push(&mut args, rows.iter().map(|row| row.version).collect::<Vec<_>>());
            push(&mut args, now_ms as i64);
            expect(table.execute(conn, sql, args).await?, rows.len())?;
        }
        rest = later;
    }
    Ok(())
}
