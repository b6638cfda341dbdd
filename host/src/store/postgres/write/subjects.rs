//! Inserts subjects and updates their status.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::expect;
use crate::domain::steps::count_json_written;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::StoreError;
use crate::store::decode::Columns as _;
use crate::store::postgres::sql::{TransactionError, args, columns, execute, fetch, push};
use crate::store::transaction::{LockedSubject, NewStatus, NumberedWriteSet};

pub(super) async fn insert(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.subjects.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO subjects (key, kind, customer, status, body, fingerprint, \
               idempotency_key, finished_status, finished_ms, created_ms, updated_ms) \
               SELECT k.*, CASE WHEN k.finished IS NOT NULL THEN $9::int8 END, $9, $9 FROM \
               unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], \
               $7::text[], $8::text[]) k (key, kind, customer, status, body, fingerprint, \
               idempotency_key, finished) \
               ON CONFLICT DO NOTHING";
    let mut args = columns![&write_set.subjects;
        |row| row.0.key.as_str(),
        |row| row.0.key.kind(),
        |row| row.0.customer.as_deref(),
        |row| row.0.status.as_str(),
        |row| {
            count_json_written();
            row.0.body.to_string()
        },
        |row| row.0.fingerprint.as_str(),
        |row| row.0.idempotency_key.as_deref(),
        |row| kinds.is_finished(&row.0.key, &row.0.status).then_some(row.0.status.as_str()),
    ];
    push(&mut args, write_set.now_ms() as i64);
    expect(execute(conn, sql, args).await?, write_set.subjects.len())
}

/// Updates the status of all affected subjects: one query that locks them, the status rules, one
/// update. The transaction that settles the last compensation of a cancelled subject sees, under the
/// subject's lock, that it is the last.
pub(super) async fn update_status(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    let ids = write_set.subjects_to_lock(kinds);
    if ids.is_empty() {
        return Ok(());
    }
    let sql =
        "SELECT key, pos, status FROM subjects WHERE key = ANY($1) ORDER BY pos FOR NO KEY UPDATE";
    let rows = fetch(&mut *conn, sql, args![&ids]).await?;
    let mut locked = HashMap::new();
    for row in &rows {
        locked.insert(row.text(0)?, LockedSubject { pos: row.int(1)?, status: row.text(2)? });
    }
    let changes = write_set.status_changes(kinds, &locked).ok_or(TransactionError::Conflict)?;
    let open = open_compensations(conn, kinds, &changes.maybe_completed).await?;
    let changed = changes.complete(&open);
    if changed.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE subjects sub SET status = k.status, updated_ms = $4, finished_status = CASE \
               WHEN k.finished THEN k.status END, finished_ms = CASE WHEN k.finished THEN $4 END \
               FROM unnest($1::int8[], $2::text[], $3::bool[]) k (pos, status, finished) \
               WHERE sub.pos = k.pos";
    let mut args = columns![&changed; |row| row.pos, |row| row.status, |row| row.finished];
    push(&mut args, write_set.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

/// Which of these subjects have a compensation that is open or dead-lettered.
async fn open_compensations(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    subjects: &BTreeMap<&str, NewStatus<'_>>,
) -> Result<Vec<String>, TransactionError> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.subject_key, e.type FROM events e JOIN deliveries d ON d.event_seq = e.seq \
               WHERE e.subject_key = ANY($1) AND d.status IN ('open', 'dead')";
    let ids: Vec<&str> = subjects.keys().copied().collect();
    let rows = fetch(conn, sql, args![&ids]).await?;
    let unfinished = rows.iter().map(|row| Ok::<_, StoreError>((row.owned(0)?, row.text(1)?)));
    Ok(kinds.compensating(unfinished)?)
}
