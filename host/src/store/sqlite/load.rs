//! Reads what a commit group needs to know: one query per table, whatever the size of the group.

use std::borrow::Cow;

use sqlx::SqliteConnection;

use super::Context;
use super::sql::{args, fetch, json};
use crate::domain::encryption::Encryption;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::StoreError;
use crate::store::decode::{self, Columns as _, envelope_columns, subject_columns};
use crate::store::transaction::{KnownSubject, Loaded, ReadSet, lookup};

/// Reads everything in the read set that the writer does not remember.
pub(super) async fn load<'a>(
    conn: &mut SqliteConnection,
    context: &Context,
    mut read_set: ReadSet<'a>,
) -> Result<Loaded<'a>, StoreError> {
    let Context { kinds, encryption, open_work, .. } = context;
    #[cfg(test)]
    compare_with_file(conn, context, &read_set).await?;
    let mut loaded = Loaded::assumed(&mut read_set);
    read_set.deliveries.retain(|one| !open_work.load(*one, kinds, &mut loaded));
    read_set.hand_overs.retain(|&(subject, stage)| {
        let waiting = open_work.is_waiting(subject, stage);
        loaded.waiting.extend(waiting.unwrap_or_default().then_some((subject, stage)));
        waiting.is_none()
    });
    let read_set = &read_set;
    subjects(conn, encryption, read_set, &mut loaded).await?;
    subjects_by_key(conn, encryption, read_set, &mut loaded).await?;
    events(conn, encryption, read_set, &mut loaded).await?;
    deliveries(conn, kinds, read_set, &mut loaded).await?;
    versions(conn, read_set, &mut loaded).await?;
    waiting(conn, read_set, &mut loaded).await?;
    Ok(loaded)
}

/// Whatever the writer remembers is as it is in the file.
#[cfg(test)]
async fn compare_with_file(
    conn: &mut SqliteConnection,
    Context { kinds, open_work, .. }: &Context,
    read_set: &ReadSet<'_>,
) -> Result<(), StoreError> {
    let (mut remembered, mut read) = (Loaded::default(), Loaded::default());
    deliveries(conn, kinds, read_set, &mut read).await?;
    waiting(conn, read_set, &mut read).await?;
    for one in &read_set.deliveries {
        if open_work.load(*one, kinds, &mut remembered) {
            assert_eq!(remembered.deliveries[&one.key], read.deliveries[&one.key]);
        }
    }
    for (subject, status) in &remembered.statuses {
        assert_eq!(*status, read.statuses[subject], "{subject}");
    }
    for (subject, stage) in &read_set.hand_overs {
        if let Some(is_waiting) = open_work.is_waiting(subject, stage) {
            assert_eq!(is_waiting, read.waiting.contains(&(*subject, *stage)), "{subject} {stage}");
        }
    }
    Ok(())
}

async fn subjects<'a>(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.subjects.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        subject_columns!(),
        ", sub.fingerprint, k.key FROM json_each(?1) k CROSS JOIN subjects sub ON sub.key = k.value"
    );
    for row in &fetch(conn, sql, args![json(&read_set.subjects)]).await? {
        let id = lookup(&read_set.subjects, row.int(10)?)?;
        let stored = Box::new(decode::subject(row, encryption)?);
        loaded.subjects.insert(id, KnownSubject::Stored(stored, row.owned(9)?));
    }
    Ok(())
}

async fn subjects_by_key<'a>(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.idempotency_keys.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        subject_columns!(),
        ", sub.fingerprint, k.key FROM json_each(?1) k CROSS JOIN subjects sub ON sub.kind = k.value ->> 0 AND \
         sub.idempotency_key = k.value ->> 1"
    );
    for row in &fetch(conn, sql, args![json(&read_set.idempotency_keys)]).await? {
        let key = lookup(&read_set.idempotency_keys, row.int(10)?)?;
        let stored = Box::new(decode::subject(row, encryption)?);
        loaded.idempotency_keys.insert(key, KnownSubject::Stored(stored, row.owned(9)?));
    }
    Ok(())
}

async fn events<'a>(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.events.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT k.key, ",
        envelope_columns!(),
        " FROM json_each(?1) k CROSS JOIN events e ON e.id = k.value ->> 1 AND e.source = k.value \
         ->> 0"
    );
    for row in &fetch(conn, sql, args![json(&read_set.events)]).await? {
        let key = lookup(&read_set.events, row.int(0)?)?;
        loaded.events.insert(key, Cow::Owned(decode::envelope(row, 1, encryption)?.event));
    }
    Ok(())
}

async fn deliveries<'a>(
    conn: &mut SqliteConnection,
    kinds: &SubjectKinds,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.deliveries.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = read_set
        .deliveries
        .iter()
        .map(|one| (one.key.0, &*one.key.1.source, &*one.key.1.id, one.subject))
        .collect();
    let sql = "SELECT k.key, e.seq, d.status = 'open', d.round, d.attempt, d.created_ms, \
               d.queued_ms, sub.status, sub.pos \
               FROM json_each(?1) k \
               LEFT JOIN events e ON e.id = k.value ->> 2 AND e.source = k.value ->> 1 \
               LEFT JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 0 \
               LEFT JOIN subjects sub ON sub.key = k.value ->> 3";
    for row in &fetch(conn, sql, args![json(&keys)]).await? {
        let one = lookup(&read_set.deliveries, row.int(0)?)?;
        decode::loaded_delivery(&mut *loaded, one, row, kinds)?;
    }
    Ok(())
}

async fn versions<'a>(
    conn: &mut SqliteConnection,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.versions.is_empty() {
        return Ok(());
    }
    let expected = read_set.versions.iter().map(|(stage, key, version)| ((*stage, *key), *version));
    loaded.versions.extend(expected);
    // Most are as they were read, so only those that differ are returned.
    let sql = "SELECT k.key, ifnull(s.version, 0) FROM json_each(?1) k LEFT JOIN state s ON s.stage = \
               k.value ->> 0 AND s.key = k.value ->> 1 WHERE ifnull(s.version, 0) <> k.value ->> 2";
    for row in &fetch(conn, sql, args![json(&read_set.versions)]).await? {
        let (stage, key, _) = lookup(&read_set.versions, row.int(0)?)?;
        loaded.versions.insert((stage, key), row.int(1)?);
    }
    Ok(())
}

async fn waiting<'a>(
    conn: &mut SqliteConnection,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), StoreError> {
    if read_set.hand_overs.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.key FROM json_each(?1) k WHERE EXISTS (SELECT 1 FROM events e CROSS JOIN \
               deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 1 \
               WHERE e.subject_key = k.value ->> 0 AND d.status = 'open')";
    for row in &fetch(conn, sql, args![json(&read_set.hand_overs)]).await? {
        loaded.waiting.insert(lookup(&read_set.hand_overs, row.int(0)?)?);
    }
    Ok(())
}
