//! The recorded chains of events, written one statement at a time.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, fetch};
use super::transaction::PooledTransaction;
use crate::domain::actor::Actor;
use crate::store::StoreError;
use crate::store::chains::{self, ChainCount, ChainRecord};

/// Adds to the recorded numbers of events.
pub(super) async fn count(
    db: &Pool,
    context: &Context,
    counts: &[ChainCount],
) -> Result<(), TransactionError> {
    let ids: Vec<&str> = counts.iter().map(|count| &*count.correlation_id).collect();
    let events: Vec<i64> = counts.iter().map(|count| count.events).collect();
    let first_ms: Vec<i64> = counts.iter().map(|count| count.first_at_ms as i64).collect();
    let last_ms: Vec<i64> = counts.iter().map(|count| count.last_at_ms as i64).collect();
    let args = args![context.clock.now_ms() as i64, ids, events, first_ms, last_ms];
    fetch(db, chains::COUNT_ALL, args).await?;
    Ok(())
}

/// Stops a chain.
pub(super) async fn stop(
    db: &Pool,
    context: &Context,
    correlation_id: &str,
    (reason, actor): (Option<&str>, &Actor),
) -> Result<ChainRecord, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let before = fetch(&mut *transaction, chains::STOPPED, args![correlation_id]).await?;
    let entry = chains::audited(actor, correlation_id, before.first(), true)?;
    let args = args![correlation_id, reason, context.clock.now_ms() as i64];
    let rows = fetch(&mut *transaction, chains::STOP, args).await?;
    let chain = chains::decode(rows.first().ok_or_else(StoreError::missing_row)?)?;
    transaction.commit_with(context, entry.because(reason.map(str::to_owned))).await?;
    Ok(chain)
}

/// Lets a chain run again.
pub(super) async fn resume(
    db: &Pool,
    context: &Context,
    correlation_id: &str,
    (reason, actor): (Option<&str>, &Actor),
) -> Result<ChainRecord, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let before = fetch(&mut *transaction, chains::STOPPED, args![correlation_id]).await?;
    let entry = chains::audited(actor, correlation_id, before.first(), false)?;
    let args = args![correlation_id, context.clock.now_ms() as i64];
    let rows = fetch(&mut *transaction, chains::RESUME, args).await?;
    let chain = chains::decode(rows.first().ok_or_else(StoreError::missing_row)?)?;
    transaction.commit_with(context, entry.because(reason.map(str::to_owned))).await?;
    Ok(chain)
}
