//! Transactions: what a begun one knows, and those on a pooled connection.
//!
//! Guarantee: a pooled connection whose transaction was not committed is closed, which rolls the
//! transaction back.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::Context;
use super::audit;
use super::pool::{Lease, Pool};
use super::sql::{TransactionError, args, execute, script};
use crate::store::costs::count_commit;
use crate::store::decode::Columns as _;
use crate::store::transaction::{Numbers, Sender, TransactionTime, WriteSet};
use crate::store::{AuditEntry, StoreError};

/// What a transaction knows once it has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub(super) time: TransactionTime,
    /// Numbers that no other transaction gets.
    numbers: Numbers,
    sender: Sender,
}

impl Started {
    /// An empty write set.
    pub(super) fn write_set<'a>(&self, context: &Context) -> WriteSet<'a> {
        let (publishing, kinds) = (context.publishing.clone(), Arc::clone(&context.kinds));
        WriteSet::new(self.numbers, self.time, publishing, kinds).sent_by(self.sender)
    }
}

/// Reads the time and takes a number. The lock, taken before the number, tells [`super::log`] which
/// transactions may still write at a position that was given out; it never blocks. Its second key is
/// the schema: namespaces have logs of their own.
macro_rules! start {
    ($numbers:literal) => {
        concat!(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, nextval(",
            $numbers,
            ") << 20 FROM pg_advisory_xact_lock_shared(1886352244, \
             to_regnamespace(current_schema()::text)::oid::int4)"
        )
    };
}

/// Begins a transaction in one round trip.
pub(super) async fn begin(
    conn: &mut PgConnection,
    context: &Context,
) -> Result<Started, TransactionError> {
    let rows = script(conn, concat!("BEGIN; ", start!("'numbers'"))).await?;
    let started = started(&rows, context, Sender::ThisHost)?;
    Ok(started.ok_or_else(StoreError::missing_row)?)
}

/// Joins a transaction of the embedding program; none when the namespace is not in its database.
/// This host does not learn when it commits, so any host sends what it writes.
pub(super) async fn join(
    conn: &mut PgConnection,
    context: &Context,
) -> Result<Option<Started>, TransactionError> {
    // Without the tables, there is no number.
    let rows = script(conn, start!("to_regclass('numbers')")).await?;
    Ok(started(&rows, context, Sender::AnyHost)?)
}

fn started(
    rows: &[PgRow],
    context: &Context,
    sender: Sender,
) -> Result<Option<Started>, StoreError> {
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    let Some(first) = row.maybe_int(1)? else { return Ok(None) };
    if let Some(clock) = &context.steady {
        clock.follow(row.unsigned(0)?);
    }
    let host_ms = context.clock.now_ms();
    // In tests, and only there, the clock of the host is the clock of the store.
    let now_ms = if context.host_time { host_ms } else { row.unsigned(0)? };
    Ok(Some(Started {
        time: TransactionTime { now_ms, host_ms },
        numbers: Numbers { event: first, outbox: first },
        sender,
    }))
}

/// A transaction on a pooled connection.
pub(super) struct PooledTransaction {
    lease: Option<Lease>,
    pub(super) started: Started,
}

impl PooledTransaction {
    pub(super) async fn begin(pool: &Pool, context: &Context) -> Result<Self, TransactionError> {
        let mut lease = pool.acquire().await?;
        match begin(&mut lease, context).await {
            Ok(started) => Ok(Self { lease: Some(lease), started }),
            Err(error) => {
                lease.close();
                Err(error)
            }
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.started.time.now_ms
    }

    /// Records what an operator did, and commits: nothing is locked after the audit log.
    pub(super) async fn commit_with(
        mut self,
        context: &Context,
        entry: AuditEntry,
    ) -> Result<(), TransactionError> {
        let now_ms = self.now_ms();
        audit::append(&mut self, &context.host, now_ms, &[entry]).await?;
        self.commit().await
    }

    /// Commits, and returns the connection to the pool.
    pub(super) async fn commit(mut self) -> Result<(), TransactionError> {
        execute(&mut self, "COMMIT", args![]).await?;
        count_commit();
        if let Some(lease) = self.lease.take() {
            lease.give_back().await;
        }
        Ok(())
    }
}

impl Deref for PooledTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.lease.as_ref().expect("taken only by commit")
    }
}

impl DerefMut for PooledTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.lease.as_mut().expect("taken only by commit")
    }
}

impl Drop for PooledTransaction {
    fn drop(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            lease.close();
        }
    }
}
