//! The connections beside the writer's: a pool of this host, or the embedding program's.
//!
//! Guarantee: a connection of the program's pool returns to it with the settings that it had. One
//! on which that fails, or whose use was cancelled, is closed instead. Costs: two more round trips
//! for each use of such a connection; the writer, which processes all batches, has one of its own.
//!
//! sqlx's pool spends a round trip on a connection that it takes back, and `connect.rs` one on each
//! that it gives out. So a connection of this host's pool stays ready for the next query for [`READY`]
//! after it was checked, then returns to the pool. When one fails, or the writer loses its own, all
//! are checked again: at most one query fails because of a server that is gone.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::session::{Before, Scope, Session};
use crate::domain::encryption::Encryption;

/// For how long a connection is used again without another check.
const READY: Duration = Duration::from_secs(1);

/// Connections whose sessions are set up.
#[derive(Clone)]
pub(super) struct Pool {
    connections: PgPool,
    source: Source,
    encryption: Arc<Encryption>,
}

#[derive(Clone)]
enum Source {
    /// The pool is this host's, which sets up each session once.
    Owned(Arc<Ready>),
    /// How to set up a session of the program.
    Borrowed(Arc<Session>),
}

/// Connections between two queries, and when the pool checked them.
struct Ready {
    checked: Mutex<Vec<(PoolConnection<Postgres>, Instant)>>,
    /// One for each connection that is in use. They are as many as the pool has connections, so who
    /// has one finds a connection here or in the pool.
    permits: Arc<Semaphore>,
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
    /// Where it waits for the next query; none: it returns to the pool at once.
    ready: Option<UsedAgain>,
    /// What has to be restored first.
    before: Option<Before>,
    /// Its session may differ from what it was.
    changed: bool,
}

/// How a connection becomes ready again.
struct UsedAgain {
    ready: Arc<Ready>,
    /// When the pool checked it.
    checked: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of this host.
    pub(super) fn owned(connections: PgPool) -> Self {
        let most = connections.options().get_max_connections() as usize;
        let permits = Arc::new(Semaphore::new(most));
        let ready = Ready { checked: Mutex::default(), permits };
        let source = Source::Owned(Arc::new(ready));
        Self { connections, source, encryption: Arc::default() }
    }

    /// The pool of the embedding program.
    pub(super) fn borrowed(connections: PgPool, session: Arc<Session>) -> Self {
        let source = Source::Borrowed(session);
        Self { connections, source, encryption: Arc::default() }
    }

    /// The same, of a host with these keys.
    pub(super) fn opening(self, encryption: Arc<Encryption>) -> Self {
        Self { encryption, ..self }
    }

    /// Opens what queries return.
    pub(super) fn encryption(&self) -> &Encryption {
        &self.encryption
    }

    /// Lets the pool check every connection again before its next use.
    pub(super) fn check_again(&self) {
        if let Source::Owned(ready) = &self.source {
            ready.connections().clear();
        }
    }

    /// The connections that are open, and those of them that no query uses.
    pub(super) fn load(&self) -> (u32, u32) {
        let ready = match &self.source {
            Source::Owned(ready) => ready.connections().len(),
            Source::Borrowed(_) => 0,
        };
        (self.connections.size(), (self.connections.num_idle() + ready) as u32)
    }

    /// The pool itself.
    pub(super) fn connections(&self) -> &PgPool {
        &self.connections
    }

    /// Closes the pool, if it is this host's.
    pub(super) async fn close(&self) {
        if let Source::Owned(ready) = &self.source {
            ready.permits.close();
            self.check_again();
            self.connections.close().await;
        }
    }

    pub(super) async fn acquire(&self) -> Result<Lease, Error> {
        match &self.source {
            Source::Owned(ready) => {
                let permits = Arc::clone(&ready.permits);
                let limit = self.connections.options().get_acquire_timeout();
                let permit = timeout(limit, permits.acquire_owned()).await;
                let permit = permit.map_err(|_| Error::PoolTimedOut)?;
                let permit = permit.map_err(|_| Error::PoolClosed)?;
                let (conn, checked) = match ready.take() {
                    Some(ready) => ready,
                    // It may have to connect: every query would be as large as that.
                    None => (Box::pin(self.connections.acquire()).await?, Instant::now()),
                };
                let ready = UsedAgain { ready: Arc::clone(ready), checked, _permit: permit };
                Ok(Lease { conn: Some(conn), ready: Some(ready), before: None, changed: false })
            }
            Source::Borrowed(session) => {
                let conn = Some(Box::pin(self.connections.acquire()).await?);
                let mut lease = Lease { conn, ready: None, before: None, changed: true };
                lease.before = Some(session.borrow(&mut lease, Scope::Session).await?);
                Ok(lease)
            }
        }
    }
}

impl Ready {
    fn connections(&self) -> MutexGuard<'_, Vec<(PoolConnection<Postgres>, Instant)>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last. Those that have to be checked return to the pool.
    fn take(&self) -> Option<(PoolConnection<Postgres>, Instant)> {
        let mut ready = self.connections();
        ready.retain(|(_, checked)| checked.elapsed() < READY);
        ready.pop()
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
        if let Some(UsedAgain { ready, checked, .. }) = &self.ready {
            let mut connections = ready.connections();
            if !ready.permits.is_closed() {
                connections.extend(self.conn.take().map(|conn| (conn, *checked)));
            }
        }
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
        if let (Some(_), Some(used)) = (&self.conn, &self.ready) {
            // Its query failed, or was cancelled.
            used.ready.connections().clear();
        }
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
