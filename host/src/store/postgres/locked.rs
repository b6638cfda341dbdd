//! A batch whose contended keys are locked before it runs: hosts that write the same keys take turns
//! instead of running batches that conflict.
//!
//! Bounds: one pooled connection for as long as the batch runs; the server closes it when it is idle
//! for longer than the time-out. Guarantee: the same checks as for any other commit; the lock only
//! saves work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use tokio::time::timeout;

use super::sql::{TransactionError, columns, fetch, push};
use super::transaction::PooledTransaction;
use super::{Context, committer, write};
use crate::store::decode;
use crate::store::transaction::{ReadSet, decide_batch};
use crate::store::{Batch, Commit, LockedState, StateRow, StoreError};

/// A transaction that holds the locks.
pub(super) struct Locked {
    transaction: PooledTransaction,
    context: Arc<Context>,
    timeout: Duration,
    rows: Vec<StateRow>,
}

/// Locks `keys` of `stage`, absent ones included.
pub(super) async fn lock(
    pool: &PgPool,
    context: &Arc<Context>,
    stage: &str,
    keys: &[String],
    timeout: Duration,
) -> Result<Locked, TransactionError> {
    let mut transaction = PooledTransaction::begin(pool, context).await?;
    let ordered: BTreeSet<(&str, &str)> = keys.iter().map(|key| (stage, key.as_str())).collect();
    let now_ms = transaction.now_ms();
    write::lock_keys(&mut transaction, &ordered, now_ms).await?;
    let sql = "SELECT s.key, s.value, s.version FROM unnest($1::text[]) k (key) \
               JOIN state s ON s.stage = $2 AND s.key = k.key";
    let mut args = columns![keys; String::as_str];
    push(&mut args, stage);
    let rows = fetch(&mut *transaction, sql, args)
        .await?
        .iter()
        .map(decode::state_row)
        .collect::<Result<_, _>>()?;
    Ok(Locked { transaction, context: Arc::clone(context), timeout, rows })
}

impl Locked {
    async fn settle(mut self, batch: &Batch) -> Result<Commit, TransactionError> {
        let started = self.transaction.started;
        let context = &*self.context;
        let commit = committer::settle(
            &mut self.transaction,
            context,
            started,
            ReadSet::of_batch(batch),
            |loaded, write_set| decide_batch(loaded, write_set, &context.status, batch),
        )
        .await?;
        self.transaction.commit().await?;
        Ok(commit)
    }
}

#[async_trait]
impl LockedState for Locked {
    fn rows(&self) -> &[StateRow] {
        &self.rows
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Commit, StoreError> {
        let limit = self.timeout;
        match timeout(limit, self.settle(&batch)).await {
            Ok(Ok(commit)) => Ok(commit),
            // Another host changed a row that was not locked: the batch is run again.
            Ok(Err(TransactionError::Conflict)) => {
                Ok(Commit::Conflict { stale: Vec::new(), conflicts: Vec::new() })
            }
            Ok(Err(TransactionError::Store(error))) => Err(error),
            Err(_) => Err(StoreError::timed_out("no reply", limit)),
        }
    }
}
