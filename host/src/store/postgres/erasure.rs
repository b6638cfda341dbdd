//! Erases the subjects of a customer, one batch per transaction.

use super::Context;
use super::pool::Pool;
use super::prune::{remove_recordings, remove_state};
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::domain::subject::SubjectKey;
use crate::store::decode::Columns as _;
use crate::store::erasure::{ERASURE_MAX, replacement};
use crate::store::{Erased, Erasure, StoreError};

pub(super) async fn erase(
    db: &Pool,
    context: &Context,
    erasure: &Erasure,
) -> Result<Erased, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let (subjects, unfinished) = find(&mut transaction, erasure).await?;
    let count = subjects.len() as u64;
    if count > 0 {
        overwrite(&mut transaction, context, &subjects).await?;
        transaction.commit_with(context, erasure.audited(count)).await?;
    } else {
        transaction.commit().await?;
    }
    Ok(Erased { subjects: count, more: count == u64::from(ERASURE_MAX), unfinished })
}

/// Locks the customer's subjects: those that can be erased, and those that cannot.
async fn find(
    conn: &mut PooledTransaction,
    erasure: &Erasure,
) -> Result<(Vec<String>, Vec<SubjectKey>), TransactionError> {
    macro_rules! subjects {
        ($is_open:literal, $lock:literal) => {
            concat!(
                "SELECT sub.key FROM subjects sub WHERE sub.kind = ANY($1) AND sub.customer = $2 AND ",
                $is_open,
                " (sub.finished_status IS NULL OR EXISTS (SELECT 1 FROM events e JOIN deliveries d ON \
                 d.event_seq = e.seq WHERE e.subject_key = sub.key AND d.status = 'open') OR EXISTS \
                 (SELECT 1 FROM events e JOIN outbox x ON x.event_seq = e.seq WHERE e.subject_key = \
                 sub.key)) ORDER BY sub.pos LIMIT $3",
                $lock
            )
        };
    }
    let customer = erasure.customer.as_str();
    let arguments = || args![&erasure.kinds, customer, i64::from(ERASURE_MAX)];
    // The unfinished ones first: one that finishes between the two queries is in both lists, and not
    // in neither.
    let rows = fetch(&mut **conn, subjects!("", ""), arguments()).await?;
    let unfinished: Result<Vec<SubjectKey>, StoreError> =
        rows.iter().map(|row| row.subject(0)).collect();
    let rows = fetch(&mut **conn, subjects!("NOT", " FOR UPDATE OF sub"), arguments()).await?;
    let finished: Result<Vec<String>, StoreError> = rows.iter().map(|row| row.owned(0)).collect();
    let (finished, mut unfinished) = (finished?, unfinished?);
    unfinished.retain(|key| !finished.iter().any(|finished| finished == key.as_str()));
    Ok((finished, unfinished))
}

async fn overwrite(
    conn: &mut PooledTransaction,
    context: &Context,
    subjects: &[String],
) -> Result<(), TransactionError> {
    let (value, text) = replacement();
    remove_state(conn, context, subjects).await?;
    let events = fetch(
        &mut **conn,
        "UPDATE events SET data = $2, attributes = NULL WHERE subject_key = ANY($1) RETURNING seq",
        args![subjects, &value[..]],
    )
    .await?;
    let seqs: Vec<i64> = events.iter().map(|row| row.int(0)).collect::<Result<_, StoreError>>()?;
    remove_recordings(conn, &seqs).await?;
    let sql = "UPDATE attempts SET message = $2, backtrace = NULL WHERE event_seq = ANY($1)";
    execute(conn, sql, args![&seqs, text.as_str()]).await?;
    let sql = "UPDATE dead_letters SET message = $2, fingerprint = $2 WHERE event_seq = ANY($1)";
    execute(conn, sql, args![&seqs, text.as_str()]).await?;
    let sql = "UPDATE subjects SET body = $2, customer = NULL, fingerprint = '', data_key = NULL WHERE \
               key = ANY($1)";
    execute(conn, sql, args![subjects, text.as_str()]).await?;
    Ok(())
}
