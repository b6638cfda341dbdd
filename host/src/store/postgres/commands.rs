//! What hosts ask each other to do.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::commands::{self, ANSWER, DELETE_OLD, KEPT_MS, SEND, TAKE, TAKEN_MAX, VALID_MS};
use crate::store::decode::Columns as _;
use crate::store::{NewCommand, TakenCommand};

/// Writes commands; returns their ids.
pub(super) async fn send(
    db: &Pool,
    context: &Context,
    new: &[NewCommand],
) -> Result<Vec<i64>, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let old_ms = now_ms.saturating_sub(KEPT_MS) as i64;
    execute(&mut transaction, DELETE_OLD, args![old_ms]).await?;
    let mut ids = Vec::with_capacity(new.len());
    for NewCommand { host, command } in new {
        let args = args![host.as_str(), command.as_str(), now_ms as i64];
        for row in fetch(&mut *transaction, SEND, args).await? {
            ids.push(row.int(0)?);
        }
    }
    transaction.commit().await?;
    Ok(ids)
}

/// Takes the commands of this host.
pub(super) async fn take(
    db: &Pool,
    context: &Context,
) -> Result<Vec<TakenCommand>, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let since_ms = now_ms.saturating_sub(VALID_MS) as i64;
    let args = args![context.host.as_str(), now_ms as i64, since_ms, TAKEN_MAX];
    let rows = fetch(&mut *transaction, TAKE, args).await?;
    transaction.commit().await?;
    Ok(commands::decode(&rows)?)
}

/// Answers a command of this host.
pub(super) async fn answer(
    db: &Pool,
    context: &Context,
    id: i64,
    answer: &str,
) -> Result<(), TransactionError> {
    fetch(db, ANSWER, args![id, answer, context.host.as_str()]).await?;
    Ok(())
}

/// The answers to commands.
pub(super) async fn answers(
    db: &Pool,
    ids: &[i64],
) -> Result<Vec<(i64, String)>, TransactionError> {
    let sql = "SELECT id, answer FROM host_commands WHERE id = ANY($1::int8[]) AND answer IS NOT \
               NULL ORDER BY id";
    Ok(commands::decode_answers(&fetch(db, sql, args![ids]).await?)?)
}
