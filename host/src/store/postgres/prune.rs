//! Deletes finished subjects past their retention period, and events without a subject, one batch per
//! transaction.
//!
//! Several hosts may do so at the same time: each skips subjects that another one has locked.
//! Unfinished subjects are skipped: a batch starts where the previous one ended, and wraps around at
//! the end. Every query takes a list of keys, with one index search each, so the cost of a batch does
//! not depend on the size of the tables.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, columns, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::decode::Columns as _;
use crate::store::{PruneRequest, Pruned, StoreError, upkeep};

/// Where the next batches start, milliseconds since 1970-01-01 UTC: of subjects by kind, and of events
/// without a subject.
#[derive(Default)]
pub(super) struct Cursors {
    subjects: Mutex<HashMap<String, i64>>,
    events: AtomicI64,
}

impl Cursors {
    fn of_kind(&self, kind: &str) -> i64 {
        self.lock().get(kind).copied().unwrap_or_default()
    }

    fn advance_kind(&self, kind: &str, ages: &[i64], limit: u32) {
        let next = after(self.of_kind(kind), ages, limit);
        self.lock().insert(kind.to_owned(), next);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the next batch starts, given the start and the ages of this one: after the last one, or at the
/// start when there are no more.
fn after(start: i64, ages: &[i64], limit: u32) -> i64 {
    match ages.last() {
        Some(last) if ages.len() >= limit as usize => (start + 1).max(*last),
        _ => 0,
    }
}

/// What a batch deletes.
#[derive(Default)]
struct Batch {
    subjects: Vec<String>,
    /// Positions of events.
    seqs: Vec<i64>,
}

pub(super) async fn prune(
    db: &Pool,
    context: &Context,
    request: &PruneRequest,
) -> Result<Pruned, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let mut batch = Batch::default();
    for (kind, before_ms) in &request.subjects {
        let age = Age { before_ms: *before_ms, limit: request.limit };
        add_subjects(&mut transaction, context, &mut batch, (kind, age)).await?;
    }
    let of_subjects = batch.seqs.len();
    if let Some(before_ms) = request.others {
        let age = Age { before_ms, limit: request.limit };
        add_events(&mut transaction, context, &mut batch, age).await?;
    }
    let events = (batch.seqs.len() - of_subjects) as u64;
    let now_ms = transaction.now_ms();
    remove(&mut transaction, context, &batch, now_ms).await?;
    if let Some(before_ms) = request.others {
        remove_by_age(&mut transaction, context, before_ms, now_ms).await?;
    }
    transaction.commit().await?;
    Ok(Pruned { subjects: batch.subjects.len() as u64, events })
}

/// Which rows are examined.
#[derive(Clone, Copy)]
struct Age {
    before_ms: u64,
    limit: u32,
}

/// Adds the subjects of a kind of which nothing is open, and their events.
async fn add_subjects(
    conn: &mut PgConnection,
    context: &Context,
    batch: &mut Batch,
    (kind, age): (&str, Age),
) -> Result<(), TransactionError> {
    // Unfinished ones are read up to the first that was created later: they have no index by age.
    let sql = "SELECT key, updated_ms, status FROM subjects WHERE pos IN (SELECT pos FROM ( \
               (SELECT pos, finished_ms AS age_ms FROM subjects WHERE kind = $1 AND finished_ms < $2 \
               AND finished_ms >= $3 ORDER BY finished_ms LIMIT $4) UNION ALL \
               (SELECT pos, updated_ms FROM subjects WHERE kind = $1 AND finished_status IS NULL AND \
               updated_ms < $2 AND updated_ms >= $3 AND pos < coalesce((SELECT later.pos FROM \
               subjects later WHERE later.kind = $1 AND later.finished_status IS NULL AND \
               later.created_ms >= $2 ORDER BY later.pos LIMIT 1), 9223372036854775807) \
               ORDER BY updated_ms LIMIT $4)) old ORDER BY age_ms LIMIT $4) AND updated_ms < $2 \
               ORDER BY updated_ms FOR UPDATE SKIP LOCKED";
    let from = context.prune.of_kind(kind);
    let args = args![kind, age.before_ms as i64, from, i64::from(age.limit)];
    let rows = fetch(&mut *conn, sql, args).await?;
    let mut unfinished: HashSet<String> = HashSet::new();
    for row in &rows {
        if !context.kinds.is_finished(row.text(0)?, row.text(2)?) {
            unfinished.insert(row.owned(0)?);
        }
    }
    let candidates = rows.iter().map(|row| row.owned(0)).collect::<Result<Vec<_>, _>>()?;
    context.prune.advance_kind(kind, &numbers(&rows, 1)?, age.limit);
    let rows = fetch(
        &mut *conn,
        "SELECT seq, subject_key, unrouted_ms IS NOT NULL FROM events WHERE subject_key = ANY($1)",
        args![&candidates],
    )
    .await?;
    let open = open_events(conn, &numbers(&rows, 0)?).await?;
    let mut kept: HashSet<&str> = HashSet::new();
    for row in &rows {
        let waits = row.flag(2)? && unfinished.contains(row.text(1)?);
        if waits || open.contains(&row.int(0)?) {
            kept.insert(row.text(1)?);
        }
    }
    for row in &rows {
        if !kept.contains(row.text(1)?) {
            batch.seqs.push(row.int(0)?);
        }
    }
    batch.subjects.extend(candidates.iter().filter(|key| !kept.contains(key.as_str())).cloned());
    Ok(())
}

/// Adds events without a subject of which nothing is open.
async fn add_events(
    conn: &mut PgConnection,
    context: &Context,
    batch: &mut Batch,
    age: Age,
) -> Result<(), TransactionError> {
    let sql = "SELECT seq, logged_ms FROM events WHERE subject_key IS NULL AND logged_ms < $1 AND \
               logged_ms >= $2 AND unrouted_ms IS NULL \
               ORDER BY logged_ms LIMIT $3 FOR UPDATE SKIP LOCKED";
    let from = context.prune.events.load(Ordering::Relaxed);
    let rows =
        fetch(&mut *conn, sql, args![age.before_ms as i64, from, i64::from(age.limit)]).await?;
    let next = after(from, &numbers(&rows, 1)?, age.limit);
    context.prune.events.store(next, Ordering::Relaxed);
    let lonely = numbers(&rows, 0)?;
    let open = open_events(conn, &lonely).await?;
    batch.seqs.extend(lonely.into_iter().filter(|seq| !open.contains(seq)));
    Ok(())
}

fn numbers(rows: &[PgRow], at: usize) -> Result<Vec<i64>, StoreError> {
    rows.iter().map(|row| row.int(at)).collect()
}

/// Those with an open delivery, an open dead letter or an outbox row.
async fn open_events(
    conn: &mut PgConnection,
    seqs: &[i64],
) -> Result<HashSet<i64>, TransactionError> {
    let sql = "SELECT k.seq FROM unnest($1::int8[]) k (seq) CROSS JOIN LATERAL \
               (SELECT 1 FROM deliveries d WHERE d.event_seq = k.seq AND d.settled_ms IS NULL \
               OFFSET 0) open \
               UNION ALL SELECT k.seq FROM unnest($1::int8[]) k (seq) CROSS JOIN LATERAL \
               (SELECT 1 FROM outbox o WHERE o.event_seq = k.seq OFFSET 0) unsent \
               UNION ALL SELECT event_seq FROM dead_letters WHERE status = 'open' AND event_seq = \
               ANY($1)";
    let rows = fetch(conn, sql, args![seqs]).await?;
    rows.iter().map(|row| Ok(row.int(0)?)).collect()
}

/// Deletes old rows that belong to no subject.
async fn remove_by_age(
    conn: &mut PgConnection,
    context: &Context,
    before_ms: u64,
    now_ms: u64,
) -> Result<(), TransactionError> {
    for sql in upkeep::BY_AGE {
        execute(conn, sql, args![before_ms as i64]).await?;
    }
    let removed_ms = upkeep::removed_before_ms(before_ms, now_ms);
    for table in context.state.all() {
        table.execute(conn, upkeep::REMOVED_KEYS, args![removed_ms as i64]).await?;
    }
    execute(conn, "DELETE FROM stage_leases WHERE until_ms < $1", args![before_ms as i64]).await?;
    Ok(())
}

/// Deletes the state of stages in the folders of these subjects.
pub(super) async fn remove_state(
    conn: &mut PgConnection,
    context: &Context,
    subjects: &[String],
) -> Result<(), TransactionError> {
    let rows = fetch(&mut *conn, upkeep::STAGES_WITH_STATE, args![]).await?;
    let shared = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    let mut folders: Vec<(&str, String, String)> = Vec::new();
    for stage in shared.into_iter().chain(context.state.placed()) {
        // '0' follows '/' in byte order.
        let of = |subject: &String| (stage, format!("{subject}/"), format!("{subject}0"));
        folders.extend(subjects.iter().map(of));
    }
    let sql = "DELETE FROM state AS s WHERE (s.stage, s.key) IN (SELECT s.stage, s.key FROM \
               unnest($1::text[], $2::text[], $3::text[]) \
               k (stage, first, last) CROSS JOIN LATERAL \
               (SELECT * FROM state AS s WHERE s.stage = k.stage AND s.key >= k.first AND s.key < \
               k.last OFFSET 0) s)";
    for (table, folders) in context.state.group(&folders, |row| row.0) {
        let args = columns![&folders; |row| row.0, |row| row.1.as_str(), |row| row.2.as_str()];
        table.execute(conn, sql, args).await?;
    }
    Ok(())
}

/// Deletes what deliveries of these events recorded.
pub(super) async fn remove_recordings(
    conn: &mut PgConnection,
    seqs: &[i64],
) -> Result<(), TransactionError> {
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN (SELECT d.* FROM \
               unnest($1::int8[]) k (seq) \
               CROSS JOIN LATERAL (SELECT stage, settled_ms, event_seq FROM deliveries d WHERE \
               d.event_seq = k.seq OFFSET 0) d)";
    execute(conn, sql, args![seqs]).await?;
    Ok(())
}

async fn remove(
    conn: &mut PgConnection,
    context: &Context,
    batch: &Batch,
    now_ms: u64,
) -> Result<(), TransactionError> {
    let Batch { subjects, seqs } = batch;
    remove_state(conn, context, subjects).await?;
    execute(conn, "DELETE FROM attempts WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM dead_letters WHERE event_seq = ANY($1)", args![seqs]).await?;
    remove_recordings(conn, seqs).await?;
    execute(conn, "DELETE FROM deliveries WHERE event_seq = ANY($1)", args![seqs]).await?;
    execute(conn, "DELETE FROM events WHERE seq = ANY($1)", args![seqs]).await?;
    let sql = "UPDATE subjects SET status = 'pruned', finished_status = 'pruned', finished_ms = NULL, \
               body = 'null', customer = NULL, data_key = NULL, updated_ms = $2 WHERE key = ANY($1)";
    execute(conn, sql, args![subjects, now_ms as i64]).await?;
    Ok(())
}
