//! Connects to the server that accepts writes, and sets up its sessions.
//!
//! Guarantees: a session of this module accepted writes when it was opened, and a pooled one also
//! each time it is used, so after a fail-over no connection stays at a standby. A session finds the
//! tables of its namespace and nothing else. Bounds: the time-out of the settings for each server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::pool::Pool;
use super::session::{Session, read_only};
use super::url;
use crate::domain::connection_string::{ConnectionString, UrlError};
use crate::store::costs::count_statement;

/// Prepared statements a connection keeps: every statement of this module, also those on the tables
/// of single stages.
const STATEMENTS: usize = 512;
/// Comparisons of two connections that detect a transaction pooler.
const POOLER_CHECKS: usize = 3;

/// Where sessions come from, and what they need.
pub(super) struct Target {
    /// The servers of a connection string; none with a pool of the embedding program.
    servers: Vec<PgConnectOptions>,
    /// The pool of the embedding program, which opens the connections.
    given: Option<PgPool>,
    /// The server that accepted writes last.
    current: AtomicUsize,
    /// When that changed; older pooled connections are closed.
    switched_at: Mutex<Option<Instant>>,
    session: Arc<Session>,
    /// Longest wait for one server.
    timeout: Duration,
}

impl Target {
    /// The servers of `url`, for sessions that find their tables in `schema`; none: where the
    /// server or the URL says.
    pub(super) fn new(
        url: &str,
        schema: Option<&str>,
        statement_timeout: Duration,
    ) -> Result<Self, UrlError> {
        let parsed = ConnectionString::parse(url)?;
        let adapt = |options: PgConnectOptions| {
            options
                .statement_cache_capacity(STATEMENTS)
                // Poolers refuse the parameter, and no column is a floating-point number.
                .extra_float_digits(None)
                .disable_statement_logging()
        };
        let servers = parsed.servers.iter().map(|server| url::options(&parsed, server));
        Ok(Self {
            servers: servers.map(|options| options.map(adapt)).collect::<Result<_, _>>()?,
            given: None,
            current: AtomicUsize::new(0),
            switched_at: Mutex::new(None),
            session: Arc::new(Session::new(schema, statement_timeout)),
            timeout: parsed.connect_timeout.unwrap_or(statement_timeout).min(statement_timeout),
        })
    }

    /// Sessions of a pool of the embedding program, which knows its server.
    pub(super) fn given(pool: PgPool, schema: Option<&str>, timeout: Duration) -> Self {
        Self {
            servers: Vec::new(),
            given: Some(pool),
            current: AtomicUsize::new(0),
            switched_at: Mutex::new(None),
            session: Arc::new(Session::new(schema, timeout)),
            timeout,
        }
    }

    /// Host, port and database of every server, without the password.
    pub(super) fn name(&self) -> String {
        if let Some(pool) = &self.given {
            return name(&pool.connect_options());
        }
        self.servers.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Opens a session at the first server that accepts writes, beginning with the last one that
    /// did. Without a session set up: see [`prepare`](Self::prepare).
    pub(super) async fn connect_unprepared(&self) -> Result<PgConnection, sqlx::Error> {
        if let Some(pool) = &self.given {
            // It is no longer the pool's, which may open another one instead.
            return self.writable(async { Ok(pool.acquire().await?.detach()) }, self.name()).await;
        }
        let first = self.current.load(Ordering::Relaxed);
        let mut failure = None;
        for at in (0..self.servers.len()).map(|step| (first + step) % self.servers.len()) {
            match self.connect_to(at).await {
                Ok(conn) => {
                    self.switch(at);
                    return Ok(conn);
                }
                Err(error) => _ = failure.get_or_insert(error),
            }
        }
        Err(failure.unwrap_or_else(|| sqlx::Error::Io(std::io::Error::other("no server"))))
    }

    async fn connect_to(&self, at: usize) -> Result<PgConnection, sqlx::Error> {
        self.writable(self.servers[at].connect(), name(&self.servers[at])).await
    }

    /// A connection that accepts writes, in time.
    async fn writable(
        &self,
        connecting: impl Future<Output = Result<PgConnection, sqlx::Error>>,
        server: String,
    ) -> Result<PgConnection, sqlx::Error> {
        let connected = timeout(self.timeout, async {
            let mut conn = connecting.await?;
            let sql = "SELECT current_setting('transaction_read_only') = 'on'";
            let row = sqlx::raw_sql(sql).fetch_one(&mut conn).await?;
            if row.try_get(0)? { Err(read_only()) } else { Ok(conn) }
        });
        let silent = || {
            let what = format!("{server} did not answer");
            sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
        };
        connected.await.unwrap_or_else(|_| Err(silent()))
    }

    /// Opens a session that is set up.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut conn = self.connect_unprepared().await?;
        self.prepare(&mut conn).await?;
        Ok(conn)
    }

    /// Sets up a session. An error when it is read-only.
    pub(super) async fn prepare(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.session.set_up(conn).await
    }

    fn switch(&self, at: usize) {
        if self.current.swap(at, Ordering::Relaxed) != at {
            tracing::info!(server = name(&self.servers[at]), "writing to another Postgres server");
            let mut switched = self.switched_at.lock().unwrap_or_else(PoisonError::into_inner);
            *switched = Some(Instant::now());
        }
    }

    /// Whether a connection of this age was opened before the last change of servers.
    fn is_outdated(&self, age: Duration) -> bool {
        let switched = *self.switched_at.lock().unwrap_or_else(PoisonError::into_inner);
        switched.is_some_and(|switched| age > switched.elapsed())
    }

    /// Lets the pool connect to the server that the writer found.
    pub(super) fn direct(&self, pool: &Pool) {
        if let [_, _, ..] = &self.servers[..] {
            pool.connections()
                .set_connect_options(self.servers[self.current.load(Ordering::Relaxed)].clone());
        }
    }

    /// A pool of sessions that are set up and accept writes.
    pub(super) fn pool(self: &Arc<Self>, connections: u32) -> Pool {
        if let Some(pool) = &self.given {
            return Pool::borrowed(pool.clone(), Arc::clone(&self.session));
        }
        let (opened, used) = (Arc::clone(self), Arc::clone(self));
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(self.timeout)
            .test_before_acquire(false)
            .after_connect(move |conn, _| {
                let target = Arc::clone(&opened);
                Box::pin(async move { target.prepare(conn).await })
            })
            // In place of the pool's own test of the connection, at the same cost.
            .before_acquire(move |conn, meta| {
                let outdated = used.is_outdated(meta.age);
                Box::pin(async move {
                    if outdated {
                        return Ok(false);
                    }
                    let sql = "SELECT current_setting('transaction_read_only') = 'on'";
                    let row = sqlx::raw_sql(sql).fetch_one(conn).await?;
                    count_statement(1, 0);
                    Ok(!row.try_get::<bool, _>(0)?)
                })
            })
            .connect_lazy_with(self.servers[self.current.load(Ordering::Relaxed)].clone());
        Pool::owned(pool)
    }

    /// Whether a transaction pooler is in between: then the statements of one connection run in
    /// changing sessions, without what was set up or prepared. A pooler that gives out the session
    /// that was used last changes it while a second connection is inside a transaction; one that
    /// takes turns changes it from statement to statement.
    pub(super) async fn is_pooled(&self, first: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let mut second = self.connect_unprepared().await?;
        let session = session_of(first, "SELECT pg_backend_pid()").await?;
        for _ in 0..POOLER_CHECKS {
            if session == session_of(&mut second, "BEGIN; SELECT pg_backend_pid()").await? {
                return Ok(true);
            }
            let changed = self.has_changed(first, session).await?;
            sqlx::raw_sql("ROLLBACK").execute(&mut second).await?;
            if changed
                || self.has_changed(first, session).await?
                || self.has_changed(first, session).await?
            {
                return Ok(true);
            }
        }
        // Best effort: the server detects a closed connection on its own.
        let _ = second.close().await;
        Ok(false)
    }

    /// Whether the connection runs in another session, or waits for one.
    async fn has_changed(
        &self,
        conn: &mut PgConnection,
        session: i32,
    ) -> Result<bool, sqlx::Error> {
        match timeout(self.timeout, session_of(conn, "SELECT pg_backend_pid()")).await {
            Ok(now) => Ok(now? != session),
            Err(_) => Ok(true),
        }
    }
}

async fn session_of(conn: &mut PgConnection, sql: &'static str) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql(sql).fetch_one(conn).await?.try_get(0)
}

/// The server's address without the password.
fn name(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map(|socket| socket.display().to_string());
    format!(
        "{}:{}/{}",
        host.as_deref().unwrap_or(options.get_host()),
        options.get_port(),
        options.get_database().unwrap_or(options.get_username())
    )
}
