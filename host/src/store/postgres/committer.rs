//! The host's writer: a task with a connection of its own that merges all waiting operations into
//! one transaction.
//!
//! Other hosts write beside it, so a group is verified while it is written and run again when
//! somebody was faster ([`RACES_MAX`] times). Bounds: [`QUEUE_OPS`] operations wait, after that
//! their callers do; a group has at most `group_max_ops`; a transaction that takes longer than the
//! time-out is given up together with its connection. Guarantees: an operation is answered only
//! after the commit that holds it; one that makes its group fail is run again alone; after a commit
//! of unknown outcome the callers are told that the store is unavailable, and find out by asking
//! again, which every operation allows.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Context;
use super::load;
use super::sql::{Refused, args, execute, script};
use super::write;
use crate::store::StoreError;
use crate::store::decode::Columns as _;
use crate::store::transaction::{self, Numbers, Op, ReadSet, Reply, Times};

/// Operations that wait for the writer before their callers have to.
pub(super) const QUEUE_OPS: usize = 1024;
/// Times that a group is run again because somebody else was faster.
const RACES_MAX: usize = 10;

/// An operation and who waits for it.
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) reply: oneshot::Sender<Result<Reply, StoreError>>,
}

/// Commits what is queued. Owns everything that writes, so that it can run again after a panic: the
/// connection of an interrupted transaction is dropped, which rolls it back.
pub struct PostgresWriter {
    /// None once the store is closed.
    state: Mutex<Option<(Committer, mpsc::Receiver<Job>)>>,
    /// [`Store::close`](crate::store::Store::close) waits until it is dropped.
    _alive: TaskTrackerToken,
}

impl PostgresWriter {
    pub(super) fn new(
        committer: Committer,
        queue: mpsc::Receiver<Job>,
        alive: TaskTrackerToken,
    ) -> Self {
        Self { state: Mutex::new(Some((committer, queue))), _alive: alive }
    }

    /// Commits until the store is closed or dropped. Restartable: callers whose operations were
    /// under way at a panic are told that the store is unavailable, and retry.
    pub async fn run(&self) {
        let mut guard = self.state.lock().await;
        let Some((committer, queue)) = guard.as_mut() else { return };
        let mut jobs = Vec::with_capacity(committer.group_max_ops);
        while queue.recv_many(&mut jobs, committer.group_max_ops).await > 0 {
            committer.tick(&mut jobs).await;
        }
        if let Some((committer, _)) = guard.take() {
            committer.close().await;
        }
    }
}

/// Writes groups of operations on a connection of its own.
pub(super) struct Committer {
    pub(super) options: PgConnectOptions,
    pub(super) conn: Option<PgConnection>,
    pub(super) context: Arc<Context>,
    pub(super) group_max_ops: usize,
    pub(super) timeout: Duration,
}

impl Committer {
    async fn close(self) {
        if let Some(conn) = self.conn {
            // The server notices a closed connection by itself, too.
            let _ = timeout(self.timeout, sqlx::Connection::close(conn)).await;
        }
    }

    /// Writes one group and answers it.
    async fn tick(&mut self, jobs: &mut Vec<Job>) {
        let ops: Vec<&Op> = jobs.iter().map(|job| &job.op).collect();
        let replies: Vec<Result<Reply, StoreError>> = match self.transaction(&ops).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err(StoreError::Corrupt(why)) if ops.len() > 1 => {
                tracing::debug!(
                    error = why,
                    operations = ops.len(),
                    "a group failed: each of its operations is run alone"
                );
                self.one_by_one(&ops).await
            }
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        };
        for (job, reply) in jobs.drain(..).zip(replies) {
            // The caller may have gone; what was written stays written.
            let _ = job.reply.send(reply);
        }
    }

    async fn one_by_one(&mut self, ops: &[&Op]) -> Vec<Result<Reply, StoreError>> {
        let mut replies: Vec<Result<Reply, StoreError>> = Vec::with_capacity(ops.len());
        for op in ops {
            // A database that went away is not waited for once more by each.
            if let Some(Err(gone @ StoreError::Unavailable(_))) = replies.last() {
                replies.push(Err(gone.clone()));
                continue;
            }
            let missing =
                || StoreError::Corrupt("an operation was left without an answer".to_owned());
            replies.push(
                self.transaction(&[op])
                    .await
                    .and_then(|replies| replies.into_iter().next().ok_or_else(missing)),
            );
        }
        replies
    }

    async fn transaction(&mut self, ops: &[&Op]) -> Result<Vec<Reply>, StoreError> {
        for _ in 0..RACES_MAX {
            let mut conn = self.connection().await?;
            match timeout(self.timeout, attempt(&mut conn, &self.context, ops)).await {
                Ok(Ok(replies)) => {
                    self.conn = Some(conn);
                    return Ok(replies);
                }
                Ok(Err(refused)) => {
                    // A connection on which nothing can be rolled back is of no use.
                    if timeout(self.timeout, execute(&mut conn, "ROLLBACK", args![]))
                        .await
                        .is_ok_and(|rolled| rolled.is_ok())
                    {
                        self.conn = Some(conn);
                    }
                    match refused {
                        Refused::Raced => tracing::debug!(
                            operations = ops.len(),
                            "another host was faster: the group is run again"
                        ),
                        Refused::Store(error) => return Err(error),
                    }
                }
                Err(_) => {
                    return Err(StoreError::Unavailable(format!(
                        "no answer within {} ms",
                        self.timeout.as_millis()
                    )));
                }
            }
        }
        Err(Refused::Raced.into())
    }

    /// The connection, or a new one.
    async fn connection(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        match timeout(self.timeout, self.options.connect()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(super::sql::store_error(&error)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no connection within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }
}

/// One attempt at a whole group.
async fn attempt(
    conn: &mut PgConnection,
    context: &Context,
    ops: &[&Op],
) -> Result<Vec<Reply>, Refused> {
    let (times, mut numbers) = begin(conn, context).await?;
    let replies = settle(conn, context, ops, (times, &mut numbers)).await?;
    execute(conn, "COMMIT", args![]).await?;
    Ok(replies)
}

/// What a transaction that has begun does: asks, decides, writes.
pub(super) async fn settle(
    conn: &mut PgConnection,
    context: &Context,
    ops: &[&Op],
    (times, numbers): (Times, &mut Numbers),
) -> Result<Vec<Reply>, Refused> {
    let mut known = load::load(conn, &context.status, &ReadSet::by(ops.iter().copied())).await?;
    let mut plan = transaction::WriteSet::new(numbers, times, context.publish_all);
    let replies = ops
        .iter()
        .map(|op| transaction::decide(&mut known, &mut plan, &context.status, op))
        .collect();
    write::write(conn, context, plan).await?;
    Ok(replies)
}

/// Begins a transaction; its time, and numbers that nobody else gets. The lock, taken before the
/// number, tells [`super::log`] who may still write at a position that was given out; nobody ever
/// waits for it.
pub(super) async fn begin(
    conn: &mut PgConnection,
    context: &Context,
) -> Result<(Times, Numbers), Refused> {
    let rows = script(
        conn,
        "BEGIN; SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, nextval('numbers') << 20 \
                            FROM pg_advisory_xact_lock_shared(1886352244, 1)",
    )
    .await?;
    let row =
        rows.first().ok_or_else(|| StoreError::Corrupt("no row where one belongs".to_owned()))?;
    let here_ms = context.clock.now_ms();
    // In tests, and only there, the clock of the host is the clock of the store.
    let now_ms = if context.host_time { here_ms } else { row.unsigned(0)? };
    let first = row.int(1)?;
    Ok((Times { now_ms, due_ms: now_ms.max(here_ms) }, Numbers { event: first, outbox: first }))
}
