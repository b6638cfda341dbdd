//! Transactions: what a begun one knows, and those on a pooled connection.
//!
//! Guarantee: a pooled connection whose transaction was not committed is closed, which rolls the
//! transaction back.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use super::Context;
use super::sql::{TransactionError, args, execute, script};
use crate::store::StoreError;
use crate::store::decode::Columns as _;
use crate::store::transaction::{Numbers, TransactionTime, WriteSet};

/// What a transaction knows once it has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub(super) time: TransactionTime,
    /// Numbers that no other transaction gets.
    numbers: Numbers,
}

impl Started {
    /// An empty write set.
    pub(super) fn write_set<'a>(&self, context: &Context) -> WriteSet<'a> {
        WriteSet::new(self.numbers, self.time, context.publish_all, Arc::clone(&context.kinds))
    }
}

/// Begins a transaction in one round trip. The lock, taken before the number, tells [`super::log`]
/// which transactions may still write at a position that was given out; it never blocks. Its second
/// key is the schema: namespaces have logs of their own.
pub(super) async fn begin(
    conn: &mut PgConnection,
    context: &Context,
) -> Result<Started, TransactionError> {
    let rows = script(
        conn,
        "BEGIN; SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, \
         nextval('numbers') << 20 FROM pg_advisory_xact_lock_shared(1886352244, \
         to_regnamespace(current_schema()::text)::oid::int4)",
    )
    .await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    if let Some(clock) = &context.steady {
        clock.follow(row.unsigned(0)?);
    }
    let host_ms = context.clock.now_ms();
    // In tests, and only there, the clock of the host is the clock of the store.
    let now_ms = if context.host_time { host_ms } else { row.unsigned(0)? };
    let first = row.int(1)?;
    Ok(Started {
        time: TransactionTime { now_ms, host_ms },
        numbers: Numbers { event: first, outbox: first },
    })
}

/// A transaction on a pooled connection.
pub(super) struct PooledTransaction {
    conn: Option<PoolConnection<Postgres>>,
    pub(super) started: Started,
}

impl PooledTransaction {
    pub(super) async fn begin(pool: &PgPool, context: &Context) -> Result<Self, TransactionError> {
        let mut conn = pool.acquire().await?;
        match begin(&mut conn, context).await {
            Ok(started) => Ok(Self { conn: Some(conn), started }),
            Err(error) => {
                drop(conn.detach());
                Err(error)
            }
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.started.time.now_ms
    }

    /// Commits, and returns the connection to the pool.
    pub(super) async fn commit(mut self) -> Result<(), TransactionError> {
        execute(&mut self, "COMMIT", args![]).await?;
        drop(self.conn.take());
        Ok(())
    }
}

impl Deref for PooledTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only by commit")
    }
}

impl DerefMut for PooledTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only by commit")
    }
}

impl Drop for PooledTransaction {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}
