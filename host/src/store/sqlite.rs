//! The store in one `SQLite` file, for a single host: one writer that commits in groups, readers
//! beside it.
//!
//! Bounds: the writer's queue (`committer`), four readers, the caller's page sizes. Guarantees:
//! `synchronous = FULL`, so a commit is on disk before its reply; a lock file excludes a second
//! host. Costs: a group is one fsync and a constant number of statements, whatever the number of
//! operations in it.

mod committer;
mod chains;
mod controls;
mod dead_letters;
mod hosts;
mod load;
mod open;
mod operation;
mod outbox;
mod port;
mod prune;
mod read;
mod rows;
mod sql;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::SqliteConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use self::committer::SqliteWriter;
use self::committer::{Committer, QUEUE_OPS};
pub use self::open::{FileStatus, OpenError, SchemaStatus};
use self::operation::{Op, SingleOperation};
use self::sql::{args, fetch};
use super::decode::Columns as _;
use super::transaction::{self, Numbers, Operation, Request, TransactionTime, WriteSet};
use super::{Publishing, StoreError};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::subject_kind::SubjectKinds;

/// How to open the store.
pub struct SqliteOptions {
    /// The database file; it and its folder are created.
    pub path: PathBuf,
    /// The namespace that the file belongs to; a file of another one is refused.
    pub namespace: String,
    /// Owner of outbox leases.
    pub host_name: String,
    /// Time for leases and for what is written.
    pub clock: Arc<dyn Clock>,
    /// The same, when it has to continue the time of what is stored.
    pub steady: Option<Arc<SteadyClock>>,
    /// Subject status by events.
    pub kinds: Arc<SubjectKinds>,
    /// How long an outbox row is held for sending.
    pub lease_ms: u64,
    /// Maximum number of operations in one transaction.
    pub group_max_ops: usize,
    /// What is sent, and how.
    pub publishing: Publishing,
}

/// What the writer knows.
struct Context {
    /// Owner of the leases.
    host: String,
    /// Length of a lease.
    lease_ms: u64,
    /// Subject status by events.
    kinds: Arc<SubjectKinds>,
    publishing: Publishing,
    /// The last numbers that were written: this is the only writer.
    numbers: Numbers,
}

impl Context {
    /// An empty write set.
    fn write_set<'a>(&self, now_ms: u64) -> WriteSet<'a> {
        let time = TransactionTime { now_ms, host_ms: now_ms };
        WriteSet::new(self.numbers, time, self.publishing.clone(), Arc::clone(&self.kinds))
    }
}

/// The store.
pub struct SqliteStore {
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    kinds: Arc<SubjectKinds>,
    /// None once closed.
    writer: Mutex<Option<mpsc::Sender<Op>>>,
    /// Tracks the writer: [`Store::close`](super::Store::close) waits until it is gone.
    writers: TaskTracker,
}

impl SqliteStore {
    /// Inspects a database file without changing it.
    pub async fn examine(
        path: &Path,
        namespace: &str,
        kinds: &SubjectKinds,
    ) -> Result<FileStatus, OpenError> {
        open::examine(path, namespace, &kinds.finished_statuses()).await
    }

    /// Opens the file and migrates its schema. Leases and bindings of earlier runs are released.
    ///
    /// Nothing is spawned: the caller runs the writer, and writes wait until it does.
    pub async fn open(options: SqliteOptions) -> Result<(Arc<Self>, SqliteWriter), OpenError> {
        let opened = open::open(&options.path, &options.namespace).await?;
        let mut conn = opened.writer;
        let failed = |error: StoreError| open::database(&options.path, error);
        hosts::release(&mut conn).await.map_err(failed)?;
        let numbers = last_numbers(&mut conn).await.map_err(failed)?;
        let last_ms = last_logged_ms(&mut conn).await.map_err(failed)?;
        if let Some((clock, last_ms)) = options.steady.zip(last_ms) {
            clock.begin_after(last_ms);
        }
        let committer = Committer {
            conn,
            options: opened.writer_options,
            context: Context {
                host: options.host_name,
                lease_ms: options.lease_ms,
                kinds: Arc::clone(&options.kinds),
                publishing: options.publishing,
                numbers,
            },
            clock: Arc::clone(&options.clock),
            group_max_ops: options.group_max_ops.max(1),
            lock: opened.lock,
        };
        let (sender, receiver) = mpsc::channel(QUEUE_OPS);
        let writers = TaskTracker::new();
        let writer = SqliteWriter::new(committer, receiver, writers.token());
        let store = Arc::new(Self {
            readers: opened.readers,
            clock: options.clock,
            kinds: options.kinds,
            writer: Mutex::new(Some(sender)),
            writers,
        });
        Ok((store, writer))
    }

    fn sender(&self) -> Result<mpsc::Sender<Op>, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clone().filter(|writer| !writer.is_closed()).ok_or_else(StoreError::closed)
    }

    /// Queues an operation that shares its statements with a group, and waits for its commit. It is
    /// carried out even if the caller stops waiting.
    async fn submit<O: Operation>(&self, operation: O) -> Result<O::Reply, StoreError>
    where
        transaction::Op: From<Request<O>>,
    {
        let (request, reply) = Request::new(operation);
        let op = Op::Shared(request.into());
        self.sender()?.send(op).await.map_err(|_| StoreError::closed())?;
        reply.await.map_err(|_| StoreError::unanswered())?
    }

    /// The same for an operation with statements of its own.
    async fn run<O: SingleOperation>(&self, operation: O) -> Result<O::Reply, StoreError> {
        let (request, reply) = Request::new(operation);
        let op = Op::Single(Box::new(request));
        self.sender()?.send(op).await.map_err(|_| StoreError::closed())?;
        reply.await.map_err(|_| StoreError::unanswered())?
    }
}

/// When the last event was logged.
async fn last_logged_ms(conn: &mut SqliteConnection) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT logged_ms FROM events ORDER BY seq DESC LIMIT 1";
    fetch(conn, sql, args![]).await?.first().map(|row| row.unsigned(0)).transpose()
}

/// The last numbers of events and outbox rows in the file.
async fn last_numbers(conn: &mut SqliteConnection) -> Result<Numbers, StoreError> {
    let sql = "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), \
               coalesce((SELECT max(seq) FROM events), 0)), coalesce((SELECT max(id) FROM \
               outbox), 0)";
    let rows = fetch(conn, sql, args![]).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    Ok(Numbers { event: row.int(0)?, outbox: row.int(1)? })
}
