//! The audit log. Its head is locked from a record to its commit, as the last thing that a
//! transaction locks: only transactions with records wait for each other, and none of them for
//! anything else.

use sqlx::PgConnection;

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::StoreError;
use crate::store::audit::{self, AuditEntry, known_args, record_args};

/// Appends records in the transaction of what they record, as its last statements.
pub(super) async fn append(
    conn: &mut PgConnection,
    host: &str,
    now_ms: u64,
    entries: &[AuditEntry],
) -> Result<(), TransactionError> {
    if entries.is_empty() {
        return Ok(());
    }
    let rows = fetch(&mut *conn, audit::LOCKED_HEAD, args![]).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    let (records, head) = audit::chain(audit::position(row, 0)?, entries, host, now_ms);
    for record in &records {
        execute(&mut *conn, audit::INSERT, record_args!(args, record)).await?;
    }
    execute(conn, audit::SET_HEAD, args![head.pos, head.hash.as_str()]).await?;
    Ok(())
}

/// Records something that no other table has.
pub(super) async fn write(
    db: &Pool,
    context: &Context,
    entry: AuditEntry,
) -> Result<(), TransactionError> {
    PooledTransaction::begin(db, context).await?.commit_with(context, entry).await
}

/// Records something that the log does not have yet.
pub(super) async fn write_once(
    db: &Pool,
    context: &Context,
    entry: AuditEntry,
) -> Result<bool, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    // Of two hosts that do the same, the second one finds the record of the first.
    fetch(&mut *transaction, audit::LOCKED_HEAD, args![]).await?;
    let known = fetch(&mut *transaction, audit::KNOWN, known_args!(args, entry)).await?;
    let is_new = known.is_empty();
    if is_new {
        transaction.commit_with(context, entry).await?;
    } else {
        transaction.commit().await?;
    }
    Ok(is_new)
}

/// Deletes the oldest records from before a time.
pub(super) async fn prune(
    db: &Pool,
    context: &Context,
    before_ms: u64,
) -> Result<u64, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    // Two hosts delete one after the other.
    fetch(&mut *transaction, audit::LOCKED_HEAD, args![]).await?;
    let args = args![before_ms as i64, audit::PRUNED_MAX];
    let rows = fetch(&mut *transaction, audit::LAST_OLD, args).await?;
    let Some(row) = rows.first() else {
        transaction.commit().await?;
        return Ok(0);
    };
    let anchor = audit::position(row, 0)?;
    let args = args![anchor.pos, anchor.hash.as_str()];
    execute(&mut transaction, audit::SET_ANCHOR, args).await?;
    let deleted = execute(&mut transaction, audit::DELETE, args![anchor.pos]).await?;
    transaction.commit().await?;
    Ok(deleted)
}
