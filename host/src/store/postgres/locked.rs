//! A batch whose contended keys are locked before it runs: hosts that write the same keys take turns
//! instead of running batches that conflict.
//!
//! Bounds: one pooled connection for as long as the batch runs, which serves its reads, too, so no
//! batch waits for a connection while it holds one; a share of the pool for all locked batches
//! together, so readers always find a connection. The server closes one that is idle for longer
//! than the time-out. Guarantee: the same checks as for any other commit; the lock only saves work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::pool::Pool;
use super::sql::{TransactionError, args, columns, execute, fetch_built, push, store_error};
use super::state_tables::StateTable;
use super::transaction::PooledTransaction;
use super::{Context, committer, read, write};
use crate::domain::encryption::Encryption;
use crate::store::decode;
use crate::store::queries::{self, Arg, KeyRange, Reader};
use crate::store::transaction::{ReadSet, decide_batch};
use crate::store::{Batch, Commit, LockedState, StateRow, StateSource, StoreError};

/// How long a locked batch waits for a row that it did not lock before it ran; then it runs again, with that row
/// locked.
const LOCK_TIMEOUT: &str = "20ms";

/// Where locked batches get their connections.
pub(super) struct Locks<'a> {
    pub(super) pool: &'a Pool,
    pub(super) context: &'a Arc<Context>,
    /// Locked batches that may hold a connection at the same time.
    pub(super) slots: &'a Arc<Semaphore>,
    pub(super) timeout: Duration,
}

/// A transaction that holds the locks.
pub(super) struct Locked {
    held: Arc<Held>,
    context: Arc<Context>,
    timeout: Duration,
    rows: Vec<StateRow>,
    _slot: OwnedSemaphorePermit,
}

/// The transaction, shared by the reads of the batch.
struct Held {
    /// None once it was committed.
    transaction: Mutex<Option<PooledTransaction>>,
    context: Arc<Context>,
    timeout: Duration,
}

impl Locks<'_> {
    /// Locks `keys` of `stage`, absent ones included.
    pub(super) async fn lock(
        &self,
        stage: &str,
        keys: &[String],
    ) -> Result<Locked, TransactionError> {
        // The semaphore is never closed.
        let closed = |_| StoreError::closed();
        let slot = Arc::clone(self.slots).acquire_owned().await.map_err(closed)?;
        let mut transaction = PooledTransaction::begin(self.pool, self.context).await?;
        let ordered: BTreeSet<(&str, &str)> =
            keys.iter().map(|key| (stage, key.as_str())).collect();
        let now_ms = transaction.now_ms();
        let tables = &self.context.state;
        write::lock_keys(&mut transaction, tables, &ordered, now_ms).await?;
        // A key that is locked later comes out of turn: waiting for it may be a deadlock, which the server
        // only finds after a second, in which no host gets these keys.
        let sql = "SELECT set_config('lock_timeout', $1, true)";
        execute(&mut transaction, sql, args![LOCK_TIMEOUT]).await?;
        let sql = "SELECT s.key, s.value, s.version FROM unnest($1::text[]) k (key) \
                   JOIN state AS s ON s.stage = $2 AND s.key = k.key";
        let mut args = columns![keys; String::as_str];
        push(&mut args, stage);
        let rows = tables
            .of(stage)
            .fetch(&mut *transaction, sql, args)
            .await?
            .iter()
            .map(|row| decode::state_row(row, stage, &self.context.encryption))
            .collect::<Result<_, _>>()?;
        let timeout = self.timeout;
        let context = Arc::clone(self.context);
        let held = Arc::new(Held { transaction: Mutex::new(Some(transaction)), context, timeout });
        Ok(Locked { held, context: Arc::clone(self.context), timeout, rows, _slot: slot })
    }
}

impl Locked {
    async fn settle(&self, batch: &Batch) -> Result<Commit, TransactionError> {
        let transaction = self.held.transaction.lock().await.take();
        let mut transaction = transaction.ok_or_else(StoreError::closed)?;
        let started = transaction.started;
        let context = &*self.context;
        let commit = committer::settle(
            &mut transaction,
            context,
            started,
            ReadSet::of_batch(batch),
            |loaded, write_set| decide_batch(loaded, write_set, &context.kinds, batch),
        )
        .await?;
        transaction.commit().await?;
        Ok(commit)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A read may outlive the batch; the connection does not.
        if let Ok(mut transaction) = self.held.transaction.try_lock() {
            drop(transaction.take());
        }
    }
}

#[async_trait]
impl LockedState for Locked {
    fn rows(&self) -> &[StateRow] {
        &self.rows
    }

    fn source(&self) -> Arc<dyn StateSource> {
        Arc::clone(&self.held) as Arc<dyn StateSource>
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

impl Held {
    fn table(&self, stage: &str) -> &StateTable {
        self.context.state.of(stage)
    }

    /// Applies the time-out to a read.
    async fn within<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let timed_out = |_| StoreError::timed_out("no reply", self.timeout);
        timeout(self.timeout, read).await.map_err(timed_out)?
    }
}

impl Reader for Held {
    type Row = PgRow;
    const NAMED: &'static str = <Pool as Reader>::NAMED;
    const NAMED_WIDTH: usize = <Pool as Reader>::NAMED_WIDTH;

    async fn rows(&self, sql: String, values: &[Arg<'_>]) -> Result<Vec<PgRow>, StoreError> {
        let args = read::bind(values);
        let mut transaction = self.transaction.lock().await;
        let transaction = transaction.as_mut().ok_or_else(StoreError::closed)?;
        fetch_built(&mut **transaction, sql, args).await.map_err(|error| store_error(&error))
    }

    fn encryption(&self) -> &Encryption {
        &self.context.encryption
    }
}

#[async_trait]
impl StateSource for Held {
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        self.within(queries::state_get(self, self.table(stage).name(), stage, key)).await
    }

    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        self.within(async {
            let mut transaction = self.transaction.lock().await;
            let transaction = transaction.as_mut().ok_or_else(StoreError::closed)?;
            let table = (self.table(stage), &*self.context.encryption);
            read::state_folders(&mut **transaction, table, stage, folders).await
        })
        .await
    }

    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let range = KeyRange { table: self.table(stage).name(), stage, prefix, after };
        self.within(queries::state_keys(self, range, limit)).await
    }
}
