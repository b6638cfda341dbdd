//! Inserts subjects and updates their status.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::expect;
use crate::domain::encryption::Encryption;
use crate::domain::steps::count_json_written;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::StoreError;
use crate::store::decode::{self, Columns as _};
use crate::store::postgres::sql::{TransactionError, args, columns, execute, fetch, push};
use crate::store::transaction::{Loaded, NewStatus, NumberedWriteSet, Reading};

pub(super) async fn insert(
    conn: &mut PgConnection,
    (kinds, encryption): (&SubjectKinds, &Encryption),
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.subjects.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO subjects (key, kind, customer, status, body, fingerprint, \
               idempotency_key, owner, data_key, finished_status, finished_ms, created_ms, \
               updated_ms) \
               SELECT k.*, CASE WHEN k.finished IS NOT NULL THEN $11::int8 END, $11, $11 FROM \
               unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], \
               $7::text[], $8::text[], $9::text[], $10::text[]) k (key, kind, customer, status, \
               body, fingerprint, idempotency_key, owner, data_key, finished) \
               ON CONFLICT DO NOTHING";
    let mut args = columns![&write_set.subjects;
        |row| row.0.key.as_str(),
        |row| row.0.key.kind(),
        |row| row.0.customer.as_deref(),
        |row| row.0.status.as_str(),
        |row| {
            count_json_written();
            row.stored_body(encryption)
        },
        |row| row.0.fingerprint.as_str(),
        |row| row.0.idempotency_key.as_deref(),
        |row| row.0.owner.as_deref(),
        |row| row.data_key(),
        |row| kinds.is_finished(&row.0.key, &row.0.status).then_some(row.0.status.as_str()),
    ];
    push(&mut args, write_set.now_ms() as i64);
    expect(execute(conn, sql, args).await?, write_set.subjects.len())
}

/// Updates the status of all affected subjects.
pub(super) async fn update_status<'a>(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    loaded: &Loaded<'a>,
    write_set: &NumberedWriteSet<'a>,
) -> Result<(), TransactionError> {
    let keys = write_set.subjects_to_lock(kinds);
    if keys.is_empty() || update_loaded(conn, kinds, loaded, write_set, &keys).await? {
        return Ok(());
    }
    update_locked(conn, kinds, write_set, &keys).await
}

/// One update, given that the subjects still have the statuses that were read. False when that is not
/// possible: some were not read, or are to be verified without a change, which takes a lock.
async fn update_loaded<'a>(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    loaded: &Loaded<'a>,
    write_set: &NumberedWriteSet<'a>,
    keys: &[&'a str],
) -> Result<bool, TransactionError> {
    let (Reading::Optimistic, Some(stored)) = (loaded.reading, loaded.stored_subjects(keys)) else {
        return Ok(false);
    };
    let changes = write_set.status_changes(kinds, &stored).ok_or(TransactionError::Conflict)?;
    let all_change = stored.values().all(|subject| changes.changed.contains_key(&subject.pos));
    if !all_change || !changes.maybe_completed.is_empty() {
        return Ok(false);
    }
    let changed = changes.complete(&[]);
    expect(update(conn, write_set, &changed).await?, changed.len())?;
    Ok(true)
}

/// One query that locks the subjects, the status rules, one update. The transaction that settles the
/// last compensation of a cancelled subject sees, under the subject's lock, that it is the last.
async fn update_locked(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    write_set: &NumberedWriteSet<'_>,
    keys: &[&str],
) -> Result<(), TransactionError> {
    let sql =
        "SELECT key, pos, status FROM subjects WHERE key = ANY($1) ORDER BY pos FOR NO KEY UPDATE";
    let rows = fetch(&mut *conn, sql, args![keys]).await?;
    let locked: HashMap<_, _> =
        rows.iter().map(decode::stored_subject).collect::<Result<_, StoreError>>()?;
    let changes = write_set.status_changes(kinds, &locked).ok_or(TransactionError::Conflict)?;
    let open = open_compensations(conn, kinds, &changes.maybe_completed).await?;
    update(conn, write_set, &changes.complete(&open)).await.map(drop)
}

/// The number of subjects that had their stored status.
async fn update(
    conn: &mut PgConnection,
    write_set: &NumberedWriteSet<'_>,
    changed: &[NewStatus<'_>],
) -> Result<u64, TransactionError> {
    if changed.is_empty() {
        return Ok(0);
    }
    let sql = "UPDATE subjects sub SET status = k.status, updated_ms = $5, finished_status = CASE \
               WHEN k.finished THEN k.status END, finished_ms = CASE WHEN k.finished THEN $5 END \
               FROM unnest($1::int8[], $2::text[], $3::text[], $4::bool[]) k (pos, stored, status, \
               finished) WHERE sub.pos = k.pos AND sub.status = k.stored";
    let mut args =
        columns![changed; |row| row.pos, |row| row.stored, |row| row.status, |row| row.finished];
    push(&mut args, write_set.now_ms() as i64);
    Ok(execute(conn, sql, args).await?)
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
