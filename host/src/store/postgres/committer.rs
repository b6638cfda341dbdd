//! The host's writer: a task with a connection of its own that merges all waiting operations into
//! one transaction.
//!
//! Other hosts write beside it, so a group is verified while it is written and run again on a
//! conflict ([`CONFLICTS_MAX`] times). What is verified anyway is not read first, except after a
//! conflict ([`Reading`]). Bounds: those of the queue
//! (`transaction::queue`); a group has at most `group_max_ops`; a transaction that takes longer than the
//! time-out is abandoned together with its connection. Guarantees: an operation is answered only
//! after the commit that holds it; one that makes its group fail is run again on its own; after a
//! commit of unknown outcome the callers are told that the store is unavailable, and may repeat
//! their operation, which is idempotent.

use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use super::connect::Target;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute};
use super::transaction::{Started, begin};
use super::{Context, load, write};
use crate::domain::steps::STEPS;
use crate::store::costs::count_commit;
use crate::store::transaction::{Loaded, Op, Pending, ReadSet, Reading, WriteSet};
use crate::store::{CommitMetrics, StoreError};

/// Times that a group is run again after a conflict with another host.
const CONFLICTS_MAX: usize = 10;

/// Groups that read everything before they are decided, after one met a conflict: repeated requests and
/// hosts that write the same keys come in bursts.
const CAUTIOUS_GROUPS: u32 = 32;

/// Commits what is queued. Owns everything that writes, so that it can run again after a panic: the
/// connection of an interrupted transaction is dropped, which rolls it back.
pub struct PostgresWriter {
    /// None once the store is closed.
    state: Mutex<Option<(Committer, mpsc::Receiver<Op>)>>,
    commits: Arc<CommitMetrics>,
    /// [`Store::close`](crate::store::Store::close) waits until it is dropped.
    _alive: TaskTrackerToken,
}

impl PostgresWriter {
    pub(super) fn new(
        committer: Committer,
        queue: mpsc::Receiver<Op>,
        commits: Arc<CommitMetrics>,
        alive: TaskTrackerToken,
    ) -> Self {
        Self { state: Mutex::new(Some((committer, queue))), commits, _alive: alive }
    }

    /// Commits until the store is closed or dropped. Restartable: after a panic, callers whose
    /// operations were in progress are told that the store is unavailable, and retry.
    pub async fn run(&self) {
        let mut guard = self.state.lock().await;
        let Some((committer, queue)) = guard.as_mut() else { return };
        let mut ops = Vec::with_capacity(committer.group_max_ops);
        while queue.recv_many(&mut ops, committer.group_max_ops).await > 0 {
            let step = tracing::trace_span!(target: STEPS, "commit");
            let (began, operations) = (Instant::now(), ops.len());
            committer.tick(&mut ops).instrument(step).await;
            self.commits.record(operations, began.elapsed());
        }
        if let Some((committer, _)) = guard.take() {
            committer.close().await;
        }
    }
}

/// Writes groups of operations on a connection of its own.
pub(super) struct Committer {
    pub(super) target: Arc<Target>,
    /// Follows the writer to another server.
    pub(super) pool: Pool,
    pub(super) conn: Option<PgConnection>,
    pub(super) context: Arc<Context>,
    pub(super) group_max_ops: usize,
    pub(super) timeout: Duration,
    /// How many groups still read everything, because one met a conflict.
    pub(super) cautious_groups: u32,
}

impl Committer {
    async fn close(self) {
        if let Some(conn) = self.conn {
            // Best effort: the server detects a closed connection on its own.
            let _ = timeout(self.timeout, sqlx::Connection::close(conn)).await;
        }
    }

    /// Writes one group and answers it.
    async fn tick(&mut self, ops: &mut Vec<Op>) {
        match self.transaction(ops).await {
            Err(error) if is_divisible(&error) && ops.len() > 1 => {
                tracing::debug!(
                    %error,
                    operations = ops.len(),
                    "commit group failed, running each operation on its own"
                );
                self.one_by_one(ops).await;
            }
            committed => ops.drain(..).for_each(|op| op.respond(committed.clone())),
        }
    }

    async fn one_by_one(&mut self, ops: &mut Vec<Op>) {
        let mut unavailable = None;
        for mut op in ops.drain(..) {
            // Only the first operation waits for a database that is gone.
            let committed = match &unavailable {
                Some(error) => Err(StoreError::clone(error)),
                None => self.transaction(slice::from_mut(&mut op)).await,
            };
            if let Err(error @ StoreError::Unavailable(_)) = &committed {
                unavailable = Some(error.clone());
            }
            op.respond(committed);
        }
    }

    async fn transaction(&mut self, ops: &mut [Op]) -> Result<(), StoreError> {
        for _ in 0..CONFLICTS_MAX {
            let mut conn = self.connection().await?;
            let reading = match self.cautious_groups {
                0 => Reading::Optimistic,
                _ => Reading::Complete,
            };
            match timeout(self.timeout, attempt(&mut conn, &self.context, reading, ops)).await {
                Ok(Ok(())) => {
                    self.cautious_groups = self.cautious_groups.saturating_sub(1);
                    self.conn = Some(conn);
                    return Ok(());
                }
                // The server may have become a standby: the next group looks for the one that
                // accepts writes.
                Ok(Err(TransactionError::Store(error @ StoreError::Unavailable(_)))) => {
                    return Err(error);
                }
                Ok(Err(error)) => {
                    self.roll_back(conn).await;
                    match error {
                        TransactionError::Conflict => {
                            self.cautious_groups = CAUTIOUS_GROUPS;
                            tracing::debug!(
                                operations = ops.len(),
                                ?reading,
                                "conflict, running the commit group again"
                            );
                        }
                        TransactionError::Store(error) => return Err(error),
                    }
                }
                Err(_) => return Err(StoreError::timed_out("no reply", self.timeout)),
            }
        }
        Err(TransactionError::Conflict.into())
    }

    /// Keeps the connection unless the rollback fails on it.
    async fn roll_back(&mut self, mut conn: PgConnection) {
        let rolled_back = timeout(self.timeout, execute(&mut conn, "ROLLBACK", args![])).await;
        if matches!(rolled_back, Ok(Ok(_))) {
            self.conn = Some(conn);
        }
    }

    /// The connection, or a new one.
    async fn connection(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        self.pool.check_again();
        // Each server has a time-out of its own.
        let conn = self.target.connect().await;
        self.target.direct(&self.pool);
        conn.map_err(|error| super::sql::store_error(&error))
    }
}

/// Whether one operation of a group may be at fault. Without an outage, the others succeed alone.
fn is_divisible(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) => false,
        StoreError::Contended
        | StoreError::StateUnavailable { .. }
        | StoreError::Rejected { .. }
        | StoreError::Corrupt(_) => true,
    }
}

/// One attempt at a whole group.
async fn attempt(
    conn: &mut PgConnection,
    context: &Context,
    reading: Reading,
    ops: &mut [Op],
) -> Result<(), TransactionError> {
    let started = begin(conn, context).await?;
    let group: Vec<Pending<'_>> = ops.iter_mut().map(Op::pending).collect();
    let read_set = ReadSet::of(&group, reading);
    settle(conn, context, started, read_set, |loaded, write_set| {
        for operation in group {
            operation.decide(loaded, write_set, &context.kinds);
        }
    })
    .await?;
    execute(conn, "COMMIT", args![]).await?;
    count_commit();
    Ok(())
}

/// Reads, decides and writes within a transaction that has begun.
pub(super) async fn settle<'a, R>(
    conn: &mut PgConnection,
    context: &Context,
    started: Started,
    read_set: ReadSet<'a>,
    decide: impl FnOnce(&mut Loaded<'a>, &mut WriteSet<'a>) -> R,
) -> Result<R, TransactionError> {
    let mut loaded = load::load(conn, context, read_set).await?;
    let mut write_set = started.write_set(context);
    let decided = decide(&mut loaded, &mut write_set);
    write::write_group(conn, context, &loaded, write_set).await?;
    Ok(decided)
}
