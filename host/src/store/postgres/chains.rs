//! The recorded chains of events, written one statement at a time.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, fetch};
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
    reason: Option<&str>,
) -> Result<ChainRecord, TransactionError> {
    let args = args![correlation_id, reason, context.clock.now_ms() as i64];
    let rows = fetch(db, chains::STOP, args).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    Ok(chains::decode(row)?)
}

/// Lets a chain run again.
pub(super) async fn resume(
    db: &Pool,
    context: &Context,
    correlation_id: &str,
) -> Result<ChainRecord, TransactionError> {
    let args = args![correlation_id, context.clock.now_ms() as i64];
    let rows = fetch(db, chains::RESUME, args).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    Ok(chains::decode(row)?)
}
