//! The store in one `SQLite` file, for a single host: one writer that commits in groups, readers
//! beside it.
//!
//! Bounds: the writer's queue (`transaction::queue`), four readers, the caller's page sizes. Guarantees:
//! `synchronous = FULL`, so a commit is on disk before its reply; a lock file excludes a second
//! host. Costs: a group is one fsync and a constant number of statements, whatever the number of
//! operations in it.

mod audit;
mod api_keys;
mod commands;
mod committer;
mod chains;
mod controls;
mod data_keys;
mod dead_letters;
mod erasure;
mod hosts;
mod load;
mod message_keys;
mod open;
mod open_work;
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
use std::sync::Arc;

use sqlx::SqliteConnection;
use tokio_util::task::TaskTracker;

use self::committer::Committer;
pub use self::committer::SqliteWriter;
pub use self::open::{FileStatus, OpenError, SchemaStatus};
use self::open_work::OpenWork;
use self::operation::{Op, SingleOperation};
use self::read::Readers;
use self::sql::{args, execute, fetch};
use super::decode::Columns as _;
use super::transaction::{
    self, Numbers, Operation, Request, TransactionTime, WriteSet, WriterQueue,
};
use super::{Publishing, StoreError, sealed};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::encryption::Encryption;
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
    /// Seals what is stored.
    pub encryption: Arc<Encryption>,
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
    encryption: Arc<Encryption>,
    /// The last numbers that were written: this is the only writer.
    numbers: Numbers,
    /// The last position of a subject that was written.
    subject_pos: i64,
    open_work: OpenWork,
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
    readers: Readers,
    clock: Arc<dyn Clock>,
    kinds: Arc<SubjectKinds>,
    writer: WriterQueue<Op>,
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
        Box::pin(open::examine(path, namespace, &kinds.finished_statuses())).await
    }

    /// Opens the file and migrates its schema. Leases and bindings of earlier runs are released.
    ///
    /// Nothing is spawned: the caller runs the writer, and writes wait until it does.
    pub async fn open(options: SqliteOptions) -> Result<(Arc<Self>, SqliteWriter), OpenError> {
        let opened = Box::pin(open::open(&options.path, &options.namespace)).await?;
        let mut conn = opened.writer;
        let failed = |error: StoreError| open::database(&options.path, error);
        hosts::release(&mut conn).await.map_err(failed)?;
        let (numbers, subject_pos) = last_numbers(&mut conn).await.map_err(failed)?;
        let last_ms = last_logged_ms(&mut conn).await.map_err(failed)?;
        if let Some((clock, last_ms)) = options.steady.zip(last_ms) {
            clock.begin_after(last_ms);
        }
        take_shared_keys(&mut conn, &options.encryption, &*options.clock).await.map_err(failed)?;
        let committer = Committer {
            conn,
            options: opened.writer_options,
            context: Context {
                host: options.host_name,
                lease_ms: options.lease_ms,
                kinds: Arc::clone(&options.kinds),
                publishing: options.publishing,
                encryption: Arc::clone(&options.encryption),
                numbers,
                subject_pos,
                open_work: OpenWork::default(),
            },
            clock: Arc::clone(&options.clock),
            group_max_ops: options.group_max_ops.max(1),
            lock: opened.lock,
        };
        let (queue, receiver) = WriterQueue::new();
        let writers = TaskTracker::new();
        let writer =
            SqliteWriter::new(committer, receiver, Arc::clone(queue.commits()), writers.token());
        let store = Arc::new(Self {
            readers: Readers { pool: opened.readers, encryption: options.encryption },
            clock: options.clock,
            kinds: options.kinds,
            writer: queue,
            writers,
        });
        Ok((store, writer))
    }

    /// Queues an operation that shares its statements with a group, and waits for its commit.
    async fn submit<O: Operation>(&self, operation: O) -> Result<O::Reply, StoreError>
    where
        transaction::Op: From<Request<O>>,
    {
        self.writer.submit(operation, |request| Op::Shared(request.into())).await
    }

    /// The same for an operation with statements of its own.
    async fn run<O: SingleOperation>(&self, operation: O) -> Result<O::Reply, StoreError> {
        self.writer.submit(operation, |request| Op::Single(Box::new(request))).await
    }
}

/// When the last event was logged.
async fn last_logged_ms(conn: &mut SqliteConnection) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT logged_ms FROM events ORDER BY seq DESC LIMIT 1";
    fetch(conn, sql, args![]).await?.first().map(|row| row.unsigned(0)).transpose()
}

/// Takes the keys for what belongs to no subject, and adds one if there is none.
async fn take_shared_keys(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let stored = sealed::shared_keys(&fetch(&mut *conn, sealed::SHARED_KEYS, args![]).await?)?;
    let Some(new) = encryption.take_shared(&stored) else { return Ok(()) };
    let args = args![i64::from(new.number), new.wrapped, clock.now_ms() as i64];
    execute(&mut *conn, sealed::ADD_SHARED_KEY, args).await?;
    let stored = sealed::shared_keys(&fetch(conn, sealed::SHARED_KEYS, args![]).await?)?;
    let _ = encryption.take_shared(&stored);
    Ok(())
}

/// The last numbers of events and outbox rows in the file, and the last position of a subject.
async fn last_numbers(conn: &mut SqliteConnection) -> Result<(Numbers, i64), StoreError> {
    let sql = "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), \
               coalesce((SELECT max(seq) FROM events), 0)), coalesce((SELECT max(id) FROM \
               outbox), 0), max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = \
               'subjects'), 0), coalesce((SELECT max(pos) FROM subjects), 0))";
    let rows = fetch(conn, sql, args![]).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    Ok((Numbers { event: row.int(0)?, outbox: row.int(1)? }, row.int(2)?))
}
