//! Writes a write set: a constant number of statements, whatever the size of the group.

use std::collections::{BTreeMap, HashMap};

use sqlx::SqliteConnection;

use super::Context;
use super::audit;
use super::open_work::OpenWork;
use super::rows;
use super::sql::{args, execute, execute_all, fetch, json};
use crate::domain::encryption::Encryption;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::StoreError;
use crate::store::decode::{self, Columns as _};
use crate::store::transaction::{EventRow, Loaded, NewStatus, NumberedWriteSet, WriteSet};

/// Claims the positions in the log, then writes everything else. `loaded` is what was read of a
/// group, before this transaction changed anything.
pub(super) async fn write<'a>(
    conn: &mut SqliteConnection,
    context: &mut Context,
    loaded: &Loaded<'a>,
    write_set: WriteSet<'a>,
) -> Result<(), StoreError> {
    let numbers = write_set.numbers();
    let Context { encryption, kinds, open_work, .. } = context;
    let encryption = &**encryption;
    let Claimed { write_set, events } = claim(conn, encryption, write_set).await?;
    let now_ms = write_set.now_ms();
    let lease_until_ms = now_ms + context.lease_ms;
    let subjects: Vec<_> = (context.subject_pos + 1..).zip(&write_set.subjects).collect();
    let statements = rows::subjects(&subjects, encryption, kinds, now_ms)
        .chain(rows::open_deliveries(&write_set.open_deliveries, now_ms))
        .chain(rows::deliveries(&write_set.deliveries))
        .chain(rows::outbox(&write_set.outbox, &context.host, lease_until_ms))
        .chain(rows::state(&write_set.state, encryption, now_ms))
        .chain(rows::attempts(&write_set.attempts, encryption))
        .chain(rows::dead_letters(&write_set.dead_letters, encryption, now_ms))
        .chain(rows::recordings(&write_set.recordings, encryption, now_ms));
    execute_all(conn, statements).await?;
    for (pos, row) in &subjects {
        open_work.add(*pos, row);
    }
    update_subject_status(conn, (kinds, open_work), loaded, &write_set).await?;
    match events {
        Some(events) => open_work.update(&events, &write_set),
        None => open_work.forget(),
    }
    if !write_set.sent.is_empty() {
        let sql = "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))";
        execute(conn, sql, args![json(&write_set.sent)]).await?;
    }
    audit::append(conn, &context.host, now_ms, &write_set.audit).await?;
    context.subject_pos += subjects.len() as i64;
    context.numbers = numbers;
    Ok(())
}

/// A write set whose events are written.
struct Claimed<'a> {
    write_set: NumberedWriteSet<'a>,
    /// Its events; none if some were in the log already.
    events: Option<Vec<EventRow<'a>>>,
}

/// Inserts the events, which makes their positions final. One that is in the log already keeps its
/// old position, which costs a query only when it happens.
async fn claim<'a>(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    mut write_set: WriteSet<'a>,
) -> Result<Claimed<'a>, StoreError> {
    let statements = rows::events(&write_set.events, encryption, write_set.now_ms());
    if execute_all(conn, statements).await? < write_set.events.len() as u64 {
        let known = known_positions(conn, &write_set).await?;
        return Ok(Claimed { write_set: write_set.number(&known), events: None });
    }
    let events = std::mem::take(&mut write_set.events);
    Ok(Claimed { write_set: write_set.number(&HashMap::new()), events: Some(events) })
}

/// Planned position → position in the log, of the events that were in the log already.
async fn known_positions(
    conn: &mut SqliteConnection,
    write_set: &WriteSet<'_>,
) -> Result<HashMap<i64, i64>, StoreError> {
    let keys: Vec<(&str, &str, i64)> = write_set
        .events
        .iter()
        .map(|row| (row.envelope.event.source.as_str(), row.envelope.event.id.as_str(), row.seq))
        .collect();
    let sql = "SELECT k.value ->> 2, e.seq FROM json_each(?1) k CROSS JOIN events e \
               ON e.id = k.value ->> 1 AND e.source = k.value ->> 0 WHERE e.seq <> k.value ->> 2";
    let rows = fetch(conn, sql, args![json(&keys)]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// Updates the status of all affected subjects: one query for those that were not read, the status
/// rules, one update.
async fn update_subject_status<'a>(
    conn: &mut SqliteConnection,
    (kinds, open_work): (&SubjectKinds, &mut OpenWork),
    loaded: &Loaded<'a>,
    write_set: &NumberedWriteSet<'a>,
) -> Result<(), StoreError> {
    let ids = write_set.subjects_to_lock(kinds);
    if ids.is_empty() {
        return Ok(());
    }
    let rows;
    let stored = match loaded.stored_subjects(&ids) {
        Some(stored) => stored,
        None => {
            let sql = "SELECT sub.key, sub.pos, sub.status FROM json_each(?1) k CROSS JOIN subjects \
                       sub ON sub.key = k.value";
            rows = fetch(&mut *conn, sql, args![json(&ids)]).await?;
            rows.iter().map(decode::stored_subject).collect::<Result<_, _>>()?
        }
    };
    // There is one writer: the subjects are as they were when the group was decided.
    let conflict = || StoreError::Corrupt("a subject changed within a transaction".to_owned());
    let changes = write_set.status_changes(kinds, &stored).ok_or_else(conflict)?;
    let open = open_compensations(conn, kinds, &changes.maybe_completed).await?;
    let changes = changes.complete(&open);
    if changes.is_empty() {
        return Ok(());
    }
    for one in &changes {
        open_work.change(one);
    }
    let changed: Vec<(i64, &str, bool)> =
        changes.iter().map(|one| (one.pos, one.status, one.finished)).collect();
    let sql = "UPDATE subjects SET status = k.value ->> 1, updated_ms = ?2, finished_status = CASE \
               WHEN k.value ->> 2 THEN k.value ->> 1 END, finished_ms = CASE WHEN k.value ->> 2 THEN \
               ?2 END FROM json_each(?1) k WHERE subjects.pos = k.value ->> 0";
    execute(conn, sql, args![json(&changed), write_set.now_ms() as i64]).await?;
    Ok(())
}

/// Which of these subjects have a compensation that is open or dead-lettered.
async fn open_compensations(
    conn: &mut SqliteConnection,
    kinds: &SubjectKinds,
    subjects: &BTreeMap<&str, NewStatus<'_>>,
) -> Result<Vec<String>, StoreError> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT e.subject_key, e.type FROM json_each(?1) k CROSS JOIN events e ON e.subject_key = \
               k.value \
               CROSS JOIN deliveries d ON d.event_seq = e.seq WHERE d.status IN ('open', 'dead')";
    let ids: Vec<&str> = subjects.keys().copied().collect();
    let rows = fetch(conn, sql, args![json(&ids)]).await?;
    kinds.compensating(rows.iter().map(|row| Ok((row.owned(0)?, row.text(1)?))))
}
