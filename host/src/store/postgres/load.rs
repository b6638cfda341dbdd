//! Reads what a commit group needs to know: one query per table, whatever the size of the group.
//!
//! Nothing is locked here. The statements that write verify what was read: each names the row that
//! it expects to find.

use std::borrow::Cow;

use sqlx::PgConnection;

use super::Context;
use super::sql::{TransactionError, args, columns, fetch};
use super::state_tables::StateTables;
use crate::domain::encryption::Encryption;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::decode::{self, Columns as _, envelope_columns, subject_columns};
use crate::store::transaction::{KnownSubject, Loaded, ReadSet, lookup};

/// Reads everything in the read set.
pub(super) async fn load<'a>(
    conn: &mut PgConnection,
    context: &Context,
    mut read_set: ReadSet<'a>,
) -> Result<Loaded<'a>, TransactionError> {
    let mut loaded = Loaded::assumed(&mut read_set);
    let read_set = &read_set;
    // Before the subjects: another host may commit a subject between two queries, and a subject whose
    // first event is known and which is not would be a conflict.
    let encryption = &*context.encryption;
    events(conn, encryption, read_set, &mut loaded).await?;
    subjects(conn, encryption, read_set, &mut loaded).await?;
    subjects_by_key(conn, encryption, read_set, &mut loaded).await?;
    deliveries(conn, &context.kinds, read_set, &mut loaded).await?;
    versions(conn, &context.state, read_set, &mut loaded).await?;
    waiting(conn, read_set, &mut loaded).await?;
    Ok(loaded)
}

async fn subjects<'a>(
    conn: &mut PgConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.subjects.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        subject_columns!(),
        ", sub.fingerprint, k.at FROM unnest($1) WITH ORDINALITY k (key, at) JOIN subjects sub USING (key)"
    );
    for row in &fetch(conn, sql, args![&read_set.subjects]).await? {
        let id = lookup(&read_set.subjects, row.int(10)? - 1)?;
        let stored = Box::new(decode::subject(row, encryption)?);
        loaded.subjects.insert(id, KnownSubject::Stored(stored, row.owned(9)?));
    }
    Ok(())
}

async fn subjects_by_key<'a>(
    conn: &mut PgConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.idempotency_keys.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT ",
        subject_columns!(),
        ", sub.fingerprint, k.at FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k (kind, key, at) \
         JOIN subjects sub ON sub.kind = k.kind AND sub.idempotency_key = k.key"
    );
    for row in
        &fetch(conn, sql, columns![&read_set.idempotency_keys; |key| key.0, |key| key.1]).await?
    {
        let key = lookup(&read_set.idempotency_keys, row.int(10)? - 1)?;
        let stored = Box::new(decode::subject(row, encryption)?);
        loaded.idempotency_keys.insert(key, KnownSubject::Stored(stored, row.owned(9)?));
    }
    Ok(())
}

async fn events<'a>(
    conn: &mut PgConnection,
    encryption: &Encryption,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.events.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT k.at, ",
        envelope_columns!(),
        " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k (source, id, at) \
         JOIN events e ON e.id = k.id AND e.source = k.source"
    );
    for row in &fetch(conn, sql, columns![&read_set.events; |key| key.0, |key| key.1]).await? {
        let key = lookup(&read_set.events, row.int(0)? - 1)?;
        loaded.events.insert(key, Cow::Owned(decode::envelope(row, 1, encryption)?.event));
    }
    Ok(())
}

async fn deliveries<'a>(
    conn: &mut PgConnection,
    kinds: &SubjectKinds,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.deliveries.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.at, e.seq, d.status = 'open', d.round, d.attempt, d.created_ms, \
               d.queued_ms, sub.status, sub.pos \
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY k \
               (stage, source, id, subject, at) \
               LEFT JOIN events e ON e.id = k.id AND e.source = k.source \
               LEFT JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.stage \
               LEFT JOIN subjects sub ON sub.key = k.subject";
    let args = columns![&read_set.deliveries;
        |one| one.key.0,
        |one| one.key.1.source.as_str(),
        |one| one.key.1.id.as_str(),
        |one| one.subject];
    for row in &fetch(conn, sql, args).await? {
        let one = lookup(&read_set.deliveries, row.int(0)? - 1)?;
        decode::loaded_delivery(&mut *loaded, one, row, kinds)?;
    }
    Ok(())
}

async fn versions<'a>(
    conn: &mut PgConnection,
    tables: &StateTables,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.versions.is_empty() {
        return Ok(());
    }
    let sql = "SELECT k.at, s.version FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k \
               (stage, key, at) \
               JOIN state AS s ON s.stage = k.stage AND s.key = k.key";
    let keys = read_set.versions.iter().map(|(stage, key, _)| (*stage, *key));
    for (table, keys) in tables.group(keys, |key| key.0) {
        let args = columns![&keys; |key| key.0, |key| key.1];
        for row in &table.fetch(&mut *conn, sql, args).await? {
            loaded.versions.insert(lookup(&keys, row.int(0)? - 1)?, row.int(1)?);
        }
    }
    Ok(())
}

async fn waiting<'a>(
    conn: &mut PgConnection,
    read_set: &ReadSet<'a>,
    loaded: &mut Loaded<'a>,
) -> Result<(), TransactionError> {
    if read_set.hand_overs.is_empty() {
        return Ok(());
    }
    // An open delivery is one without `settled_ms`. The limits keep the planner from joining whole
    // tables: it looks up the events of each subject, and the delivery of each event.
    let sql = "SELECT k.at FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k (subject, stage, at) \
               CROSS JOIN LATERAL (SELECT 1 FROM events e CROSS JOIN LATERAL (SELECT 1 FROM \
               deliveries d WHERE d.event_seq = e.seq AND d.stage = k.stage AND d.settled_ms IS NULL \
               LIMIT 1) open WHERE e.subject_key = k.subject LIMIT 1) waiting";
    for row in &fetch(conn, sql, columns![&read_set.hand_overs; |key| key.0, |key| key.1]).await? {
        loaded.waiting.insert(lookup(&read_set.hand_overs, row.int(0)? - 1)?);
    }
    Ok(())
}
