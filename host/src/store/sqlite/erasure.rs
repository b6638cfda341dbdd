//! Erases the subjects of a customer, one batch at a time on the writer's connection.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::prune::{positions, remove_recordings, remove_state};
use super::sql::{args, execute, fetch, json};
use crate::domain::subject::SubjectKey;
use crate::store::decode::Columns as _;
use crate::store::erasure::{ERASURE_MAX, replacement};
use crate::store::transaction::Operation;
use crate::store::{Erased, Erasure, StoreError};

impl Operation for Erasure {
    type Reply = Erased;
}

#[async_trait]
impl SingleOperation for Erasure {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Erased, StoreError> {
        let (subjects, unfinished) = find(self, writer).await?;
        if !subjects.is_empty() {
            erase(writer, &subjects).await?;
            writer.audit(self.audited(subjects.len() as u64)).await?;
        }
        Ok(Erased {
            subjects: subjects.len() as u64,
            more: subjects.len() == ERASURE_MAX as usize,
            unfinished,
        })
    }
}

/// Those that can be erased, and those that cannot.
async fn find(
    erasure: &Erasure,
    writer: &mut Writer<'_>,
) -> Result<(Vec<String>, Vec<SubjectKey>), StoreError> {
    macro_rules! subjects {
        ($is_open:literal) => {
            concat!(
                "SELECT sub.key FROM json_each(?1) k CROSS JOIN subjects sub ON sub.kind = k.value AND \
                 sub.customer = ?2 WHERE ",
                $is_open,
                " (sub.finished_status IS NULL OR EXISTS (SELECT 1 FROM events e CROSS JOIN deliveries d \
                 ON d.event_seq = e.seq WHERE e.subject_key = sub.key AND d.status = 'open') OR EXISTS \
                 (SELECT 1 FROM events e CROSS JOIN outbox x ON x.event_seq = e.seq WHERE \
                 e.subject_key = sub.key)) ORDER BY sub.pos LIMIT ?3"
            )
        };
    }
    let (kinds, customer) = (json(&erasure.kinds), erasure.customer.as_str());
    let arguments = || args![kinds.as_str(), customer, i64::from(ERASURE_MAX)];
    let rows = fetch(&mut *writer.conn, subjects!("NOT"), arguments()).await?;
    let finished = rows.iter().map(|row| row.owned(0)).collect::<Result<_, _>>()?;
    let rows = fetch(&mut *writer.conn, subjects!(""), arguments()).await?;
    let unfinished = rows.iter().map(|row| row.subject(0)).collect::<Result<_, _>>()?;
    Ok((finished, unfinished))
}

async fn erase(writer: &mut Writer<'_>, subjects: &[String]) -> Result<(), StoreError> {
    let (value, text) = replacement();
    let conn = &mut *writer.conn;
    remove_state(conn, subjects).await?;
    let keys = json(subjects);
    let sql = "SELECT e.seq FROM json_each(?1) k CROSS JOIN events e ON e.subject_key = k.value";
    let seqs = json(&positions(conn, sql, args![keys.as_str()]).await?);
    remove_recordings(conn, &seqs).await?;
    let of_events = [
        "UPDATE attempts SET message = ?2, backtrace = NULL WHERE event_seq IN (SELECT value FROM \
         json_each(?1))",
        "UPDATE dead_letters SET message = ?2, fingerprint = ?2 WHERE event_seq IN (SELECT value FROM \
         json_each(?1))",
    ];
    for sql in of_events {
        execute(conn, sql, args![seqs.as_str(), text.as_str()]).await?;
    }
    let sql = "UPDATE events SET data = ?2, attributes = NULL WHERE seq IN (SELECT value FROM \
               json_each(?1))";
    execute(conn, sql, args![seqs, &value[..]]).await?;
    let sql = "UPDATE subjects SET body = ?2, customer = NULL, fingerprint = '', data_key = NULL WHERE \
               key IN (SELECT value FROM json_each(?1))";
    execute(conn, sql, args![keys, text]).await?;
    Ok(())
}
