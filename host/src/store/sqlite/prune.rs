//! Deletes finished subjects past their retention period, and events without a subject, one batch at a
//! time on the writer's connection.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch, json};
use crate::store::decode::Columns as _;
use crate::store::transaction::Operation;
use crate::store::{PruneRequest, Pruned, StoreError, upkeep};

/// None of the events has an open delivery, an open dead letter or an outbox row.
macro_rules! nothing_open {
    ($events:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM ",
            $events,
            " CROSS JOIN deliveries d ON d.event_seq = e.seq WHERE d.status = 'open') AND NOT \
             EXISTS (SELECT 1 FROM ",
            $events,
            " CROSS JOIN dead_letters l ON l.event_seq = e.seq WHERE l.status = 'open') AND NOT \
             EXISTS (SELECT 1 FROM ",
            $events,
            " CROSS JOIN outbox x ON x.event_seq = e.seq)"
        )
    };
}

impl Operation for PruneRequest {
    type Reply = Pruned;
}

#[async_trait]
impl SingleOperation for PruneRequest {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Pruned, StoreError> {
        let mut subjects = Vec::new();
        for (kind, before_ms) in &self.subjects {
            subjects.extend(finished(writer, kind, *before_ms, self.limit).await?);
        }
        let Writer { conn, now_ms, .. } = writer;
        let sql =
            "SELECT e.seq FROM json_each(?1) k CROSS JOIN events e ON e.subject_key = k.value";
        let mut seqs = positions(conn, sql, args![json(&subjects)]).await?;
        let mut events = 0;
        if let Some(before_ms) = self.others {
            let sql = concat!(
                "SELECT o.seq FROM events o WHERE o.subject_key IS NULL AND o.logged_ms < ?1 AND \
                 o.unrouted_ms IS NULL AND ",
                nothing_open!("(SELECT o.seq AS seq) e"),
                " ORDER BY o.logged_ms LIMIT ?2"
            );
            let args = args![before_ms as i64, i64::from(self.limit)];
            let others = positions(conn, sql, args).await?;
            events = others.len() as u64;
            seqs.extend(others);
        }
        remove(conn, &subjects, &seqs, *now_ms).await?;
        if let Some(before_ms) = self.others {
            for sql in upkeep::BY_AGE {
                execute(conn, sql, args![before_ms as i64]).await?;
            }
            let removed_ms = upkeep::removed_before_ms(before_ms, *now_ms);
            execute(conn, upkeep::REMOVED_KEYS, args![removed_ms as i64]).await?;
        }
        Ok(Pruned { subjects: subjects.len() as u64, events })
    }
}

/// Whether nothing of the subject `sub` is open, and no event of it waits for a stage that is needed.
macro_rules! may_be_pruned {
    () => {
        concat!(
            "(sub.status IN (SELECT value FROM json_each(?3)) OR NOT EXISTS (SELECT 1 FROM events u \
             WHERE u.subject_key = sub.key AND u.unrouted_ms IS NOT NULL)) AND ",
            nothing_open!("(SELECT seq FROM events WHERE subject_key = sub.key) e")
        )
    };
}

/// Subjects of a kind that were last changed before then, and of which nothing is open.
async fn finished(
    writer: &mut Writer<'_>,
    kind: &str,
    before_ms: u64,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    let Writer { conn, context, .. } = writer;
    // Unfinished ones are read up to the first that was created later: they have no index by age.
    let sql = concat!(
        "SELECT key FROM (SELECT * FROM (SELECT sub.key AS key, sub.finished_ms AS age_ms FROM subjects \
         sub WHERE sub.kind = ?4 AND sub.finished_ms < ?1 AND ",
        may_be_pruned!(),
        " ORDER BY sub.finished_ms LIMIT ?2) UNION ALL SELECT * FROM (SELECT sub.key, sub.updated_ms \
         FROM subjects sub WHERE sub.kind = ?4 AND sub.finished_status IS NULL AND sub.updated_ms < ?1 \
         AND sub.pos < coalesce((SELECT later.pos FROM subjects later WHERE later.kind = ?4 AND \
         later.finished_status IS NULL AND later.created_ms >= ?1 ORDER BY later.pos LIMIT 1), \
         9223372036854775807) AND ",
        may_be_pruned!(),
        " ORDER BY sub.updated_ms LIMIT ?2)) ORDER BY age_ms LIMIT ?2"
    );
    let statuses = json(&context.kinds.finished_statuses_of(kind));
    let args = args![before_ms as i64, i64::from(limit), statuses, kind];
    fetch(&mut **conn, sql, args).await?.iter().map(|row| row.owned(0)).collect()
}

/// Positions of events that a query finds.
pub(super) async fn positions(
    conn: &mut SqliteConnection,
    sql: &'static str,
    args: sqlx::sqlite::SqliteArguments,
) -> Result<Vec<i64>, StoreError> {
    fetch(conn, sql, args).await?.iter().map(|row| row.int(0)).collect()
}

/// Deletes the state of stages in the folders of these subjects.
pub(super) async fn remove_state(
    conn: &mut SqliteConnection,
    subjects: &[String],
) -> Result<(), StoreError> {
    let mut stages = Vec::new();
    for row in &fetch(&mut *conn, upkeep::STAGES_WITH_STATE, args![]).await? {
        stages.push(row.owned(0)?);
    }
    // '0' follows '/' in byte order.
    let sql = "DELETE FROM state WHERE (stage, key) IN (SELECT s.stage, s.key FROM json_each(?1) t \
               CROSS JOIN json_each(?2) k CROSS JOIN state s ON s.stage = t.value AND s.key >= \
               k.value || '/' AND s.key < k.value || '0')";
    execute(conn, sql, args![json(&stages), json(subjects)]).await?;
    Ok(())
}

/// Deletes what deliveries of these events, a JSON list of positions, recorded.
pub(super) async fn remove_recordings(
    conn: &mut SqliteConnection,
    seqs: &str,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN (SELECT d.stage, \
               d.settled_ms, d.event_seq \
               FROM json_each(?1) k CROSS JOIN deliveries d ON d.event_seq = k.value)";
    execute(conn, sql, args![seqs]).await?;
    Ok(())
}

async fn remove(
    conn: &mut SqliteConnection,
    subjects: &[String],
    seqs: &[i64],
    now_ms: u64,
) -> Result<(), StoreError> {
    remove_state(conn, subjects).await?;
    let (subjects, seqs) = (json(subjects), json(seqs));
    execute(
        conn,
        "DELETE FROM attempts WHERE event_seq IN (SELECT value FROM json_each(?1))",
        args![seqs.as_str()],
    )
    .await?;
    execute(
        conn,
        "DELETE FROM dead_letters WHERE event_seq IN (SELECT value FROM json_each(?1))",
        args![seqs.as_str()],
    )
    .await?;
    remove_recordings(conn, &seqs).await?;
    execute(
        conn,
        "DELETE FROM deliveries WHERE event_seq IN (SELECT value FROM json_each(?1))",
        args![seqs.as_str()],
    )
    .await?;
    execute(
        conn,
        "DELETE FROM events WHERE seq IN (SELECT value FROM json_each(?1))",
        args![seqs.as_str()],
    )
    .await?;
    let sql = "UPDATE subjects SET status = 'pruned', finished_status = 'pruned', finished_ms = NULL, \
               body = 'null', customer = NULL, data_key = NULL, updated_ms = ?2 \
               WHERE key IN (SELECT value FROM json_each(?1))";
    execute(conn, sql, args![subjects.as_str(), now_ms as i64]).await?;
    Ok(())
}
