//! The only writer: a task that owns the connection which writes, and merges all waiting operations
//! into one transaction.
//!
//! Bounds: those of the queue (`transaction::queue`); a group has at most `group_max_ops`. Guarantees: an operation is answered only after the commit that holds it; one
//! that makes its group fail is run again on its own, so the others are written.

use std::slice;
use std::sync::Arc;
use std::time::Instant;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use super::open::FileLock;
use super::operation::{Op, Writer};
use super::sql::{args, execute, fetch, store_error};
use super::{Context, load};
use crate::domain::clock::Clock;
use crate::domain::steps::STEPS;
use crate::store::costs::count_commit;
use crate::store::decode::Columns as _;
use crate::store::transaction::{Pending, ReadSet, Reading};
use crate::store::{CommitMetrics, StoreError};

/// Commits what is queued. Owns everything that writes, so that it can run again after a panic.
pub struct SqliteWriter {
    /// None once the store is closed.
    state: Mutex<Option<WriterState>>,
    commits: Arc<CommitMetrics>,
    /// [`Store::close`](crate::store::Store::close) waits until it is dropped.
    _alive: TaskTrackerToken,
}

struct WriterState {
    committer: Committer,
    queue: mpsc::Receiver<Op>,
    /// A panic left a transaction open.
    interrupted: bool,
}

impl SqliteWriter {
    pub(super) fn new(
        committer: Committer,
        queue: mpsc::Receiver<Op>,
        commits: Arc<CommitMetrics>,
        alive: TaskTrackerToken,
    ) -> Self {
        let state = WriterState { committer, queue, interrupted: false };
        Self { state: Mutex::new(Some(state)), commits, _alive: alive }
    }

    /// Commits until the store is closed or dropped. Restartable: after a panic, callers whose
    /// operations were in progress are told that the store is unavailable, and retry.
    pub async fn run(&self) {
        let mut guard = self.state.lock().await;
        let Some(state) = guard.as_mut() else { return };
        if state.interrupted {
            state.committer.roll_back().await;
            state.interrupted = false;
        }
        let most = state.committer.group_max_ops;
        let mut ops = Vec::with_capacity(most);
        while state.queue.recv_many(&mut ops, most).await > 0 {
            state.interrupted = true;
            let step = tracing::trace_span!(target: STEPS, "commit");
            let (began, operations) = (Instant::now(), ops.len());
            state.committer.tick(&mut ops).instrument(step).await;
            self.commits.record(operations, began.elapsed());
            state.interrupted = false;
        }
        if let Some(state) = guard.take() {
            state.committer.close().await;
        }
    }
}

/// Writes groups of operations on the only connection that writes.
pub(super) struct Committer {
    pub(super) conn: SqliteConnection,
    /// Opens a new connection when this one breaks.
    pub(super) options: SqliteConnectOptions,
    pub(super) context: Context,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_max_ops: usize,
    /// Keeps other hosts off the file for as long as there is a writer.
    pub(super) lock: FileLock,
}

impl Committer {
    /// Checkpoints the write-ahead log into the file, and closes it.
    async fn close(mut self) {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = execute(&mut self.conn, checkpoint, args![]).await {
            tracing::warn!(%error, "final checkpoint failed, the next start runs it");
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "failed to close the database cleanly");
        }
        drop(self.lock);
    }

    /// Writes one group and answers it.
    async fn tick(&mut self, ops: &mut Vec<Op>) {
        match self.transaction(ops).await {
            Ok(()) => ops.drain(..).for_each(|op| op.respond(Ok(()))),
            Err(Failed::Group(error)) if ops.len() > 1 => {
                tracing::debug!(
                    %error,
                    operations = ops.len(),
                    "commit group failed, running each operation on its own"
                );
                for mut op in ops.drain(..) {
                    let committed = self.transaction(slice::from_mut(&mut op)).await;
                    op.respond(committed.map_err(Failed::into_error));
                }
            }
            Err(failed) => {
                let error = failed.into_error();
                ops.drain(..).for_each(|op| op.respond(Err(error.clone())));
            }
        }
    }

    async fn transaction(&mut self, ops: &mut [Op]) -> Result<(), Failed> {
        match begin(&mut self.conn).await {
            Ok(data_version) => self.context.open_work.check(data_version),
            Err(error) => {
                self.roll_back().await;
                return Err(Failed::Begin(error));
            }
        }
        let mut writer = Writer {
            conn: &mut self.conn,
            context: &mut self.context,
            now_ms: self.clock.now_ms(),
        };
        let written = match group(&mut writer, ops).await {
            Ok(()) => execute(&mut self.conn, "COMMIT", args![]).await.map(|_| count_commit()),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.roll_back().await;
            return Err(Failed::Group(error));
        }
        Ok(())
    }

    /// Leaves the connection without a transaction. `SQLite` rolls back by itself after some errors
    /// (a full disk), and then refuses a ROLLBACK; since that looks like a broken connection, the
    /// connection is replaced in both cases.
    async fn roll_back(&mut self) {
        self.context.open_work.forget();
        if execute(&mut self.conn, "ROLLBACK", args![]).await.is_ok() {
            return;
        }
        match self.options.connect().await {
            Ok(conn) => self.conn = conn,
            Err(error) => {
                tracing::error!(error = %store_error(&error), "failed to reopen the database");
            }
        }
    }
}

/// Begins a transaction; returns a number that is another one after other programs wrote into the file.
async fn begin(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    let rows = fetch(conn, "BEGIN IMMEDIATE; PRAGMA data_version", args![]).await?;
    rows.first().ok_or_else(StoreError::missing_row)?.int(0)
}

/// Where a transaction failed.
enum Failed {
    /// Before it began: whatever its operations are.
    Begin(StoreError),
    /// While its operations ran.
    Group(StoreError),
}

impl Failed {
    fn into_error(self) -> StoreError {
        match self {
            Self::Begin(error) | Self::Group(error) => error,
        }
    }
}

/// All operations of a group: those that share statements first.
async fn group(writer: &mut Writer<'_>, ops: &mut [Op]) -> Result<(), StoreError> {
    let mut shared: Vec<Pending<'_>> = Vec::with_capacity(ops.len());
    let mut single = Vec::new();
    for op in ops {
        match op {
            Op::Shared(op) => shared.push(op.pending()),
            Op::Single(request) => single.push(request),
        }
    }
    let kinds = Arc::clone(&writer.context.kinds);
    let read_set = ReadSet::of(&shared, Reading::Complete);
    let mut loaded = load::load(writer.conn, writer.context, read_set).await?;
    let mut write_set = writer.write_set();
    for operation in shared {
        operation.decide(&mut loaded, &mut write_set, &kinds);
    }
    writer.write_group(&loaded, write_set).await?;
    for request in single {
        request.run(writer).await?;
        if request.changes_work() {
            writer.context.open_work.forget();
        }
    }
    Ok(())
}
