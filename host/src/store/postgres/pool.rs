//! The connections beside the writer's: a pool of this host, or the embedding program's.
//!
//! Guarantee: a connection of the program's pool returns to it with the settings that it had. One
//! on which that fails, or whose use was cancelled, is closed instead. Costs: two more round trips
//! for each use of such a connection; the writer, which processes all batches, has one of its own.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::session::{Before, Scope, Session};

/// Connections whose sessions are set up.
#[derive(Clone)]
pub(super) struct Pool {
    connections: PgPool,
    /// How to set up a session of the program; none: the pool is this host's, which sets up each
    /// session once.
    borrowed: Option<Arc<Session>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.connections.fmt(formatter)
    }
}

/// A connection of the pool.
pub(super) struct Lease {
    /// None once it was given back.
    conn: Option<PoolConnection<Postgres>>,
    /// What has to be restored first.
    before: Option<Before>,
    /// Its session may differ from what it was.
    changed: bool,
}

impl Pool {
    /// A pool of this host.
    pub(super) fn owned(connections: PgPool) -> Self {
        Self { connections, borrowed: None }
    }

    /// The pool of the embedding program.
    pub(super) fn borrowed(connections: PgPool, session: Arc<Session>) -> Self {
        Self { connections, borrowed: Some(session) }
    }

    /// The pool itself.
    pub(super) fn connections(&self) -> &PgPool {
        &self.connections
    }

    /// Closes the pool, if it is this host's.
    pub(super) async fn close(&self) {
        if self.borrowed.is_none() {
            self.connections.close().await;
        }
    }

    pub(super) async fn acquire(&self) -> Result<Lease, Error> {
        let conn = self.connections.acquire().await?;
        let changed = self.borrowed.is_some();
        let mut lease = Lease { conn: Some(conn), before: None, changed };
        if let Some(session) = &self.borrowed {
            lease.before = Some(session.borrow(&mut lease, Scope::Session).await?);
        }
        Ok(lease)
    }
}

impl Lease {
    /// Returns the connection to its pool.
    pub(super) async fn give_back(mut self) {
        if let Some(before) = &self.before {
            let Some(conn) = &mut self.conn else { return };
            if let Err(error) = before.restore(conn).await {
                tracing::debug!(%error, "a connection could not be restored, and is closed");
                return;
            }
        }
        self.changed = false;
    }

    /// Closes the connection: whatever it was doing is rolled back.
    pub(super) fn close(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.changed {
            self.close();
        }
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only with the lease")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only with the lease")
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all = async move {
            let mut lease = self.acquire().await?;
            let all: Vec<_> = (&mut *lease).fetch_many(query).try_collect().await?;
            lease.give_back().await;
            Ok::<_, Error>(stream::iter(all.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut lease = self.acquire().await?;
            let found = (&mut *lease).fetch_optional(query).await?;
            lease.give_back().await;
            Ok(found)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut lease = self.acquire().await?;
            let prepared = (&mut *lease).prepare_with(sql, parameters).await?;
            lease.give_back().await;
            Ok(prepared)
        })
    }
}
