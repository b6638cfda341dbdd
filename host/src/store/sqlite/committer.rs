//! The one writer: a task that owns the only connection which writes, and merges all waiting
//! operations into one transaction.
//!
//! Bounds: [`QUEUE_OPS`] operations wait, after that their callers do; a group has at most
//! `group_max_ops`. Guarantees: an operation is answered only after the commit that holds it; one
//! that makes its group fail is run again alone, so it costs nobody else.

use std::fs::File;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::sql::{args, execute, store_error};
use super::{Context, dead_letters, hosts, load, outbox, prune, write};
use crate::domain::clock::Clock;
use crate::store::transaction::{self, ReadSet};
use crate::store::{
    ControlState, DeadLetterAction, KnownBindings, NewEvent, OutboxRow, PluginLoad, Pruned,
    StageBinding, StageControl, StoreError,
};

/// Operations that wait for the writer before their callers have to.
pub(super) const QUEUE_OPS: usize = 1024;

/// Something to write.
#[derive(Debug)]
pub(super) enum Op {
    /// Shares its statements with the whole group.
    Shared(transaction::Op),
    Postponed {
        ids: Vec<i64>,
        due_at_ms: u64,
    },
    Claim {
        limit: u32,
    },
    Requeue {
        stage: String,
        events: Vec<i64>,
        queued_before_ms: u64,
    },
    Replay {
        id: i64,
        expires_at_ms: u64,
    },
    ReplayEdited {
        id: i64,
        event: Box<NewEvent>,
    },
    Discard {
        id: i64,
        reason: String,
    },
    PluginLoaded(PluginLoad),
    RecordBindings {
        used: Vec<StageBinding>,
        live_ms: u64,
    },
    DeleteBinding {
        binding: StageBinding,
        live_ms: u64,
    },
    Prune {
        before_ms: u64,
        limit: u32,
    },
    SetStageControl {
        stage: String,
        state: ControlState,
        reason: Option<String>,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Reply {
    Shared(transaction::Reply),
    Rows(Vec<OutboxRow>),
    DeadLetter(DeadLetterAction),
    Control(StageControl),
    Pruned(Pruned),
    Bindings(KnownBindings),
    StageDeletion(bool),
    Written,
}

/// An operation and who waits for it.
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) reply: oneshot::Sender<Result<Reply, StoreError>>,
}

/// Commits what is queued. Owns everything that writes, so that it can run again after a panic.
pub struct SqliteWriter {
    /// None once the store is closed.
    state: Mutex<Option<WriterState>>,
    /// [`Store::close`](crate::store::Store::close) waits until it is dropped.
    _alive: TaskTrackerToken,
}

struct WriterState {
    committer: Committer,
    queue: mpsc::Receiver<Job>,
    /// A panic left a transaction open.
    interrupted: bool,
}

impl SqliteWriter {
    pub(super) fn new(
        committer: Committer,
        queue: mpsc::Receiver<Job>,
        alive: TaskTrackerToken,
    ) -> Self {
        let state = WriterState { committer, queue, interrupted: false };
        Self { state: Mutex::new(Some(state)), _alive: alive }
    }

    /// Commits until the store is closed or dropped. Restartable: callers whose operations were
    /// under way at a panic are told that the store is unavailable, and retry.
    pub async fn run(&self) {
        let mut guard = self.state.lock().await;
        let Some(state) = guard.as_mut() else { return };
        if state.interrupted {
            state.committer.roll_back().await;
            state.interrupted = false;
        }
        let most = state.committer.group_max_ops;
        let mut jobs = Vec::with_capacity(most);
        while state.queue.recv_many(&mut jobs, most).await > 0 {
            state.interrupted = true;
            state.committer.tick(&mut jobs).await;
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
    /// To connect anew should the connection break.
    pub(super) options: SqliteConnectOptions,
    pub(super) context: Context,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_max_ops: usize,
    /// Keeps other hosts off the file for as long as there is a writer.
    pub(super) lock: File,
}

impl Committer {
    /// Moves the write-ahead log into the file, and closes it.
    async fn close(mut self) {
        if let Err(error) =
            execute(&mut self.conn, "PRAGMA wal_checkpoint(TRUNCATE)", args![]).await
        {
            tracing::warn!(%error, "the write-ahead log was left for the next start");
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "the database was not closed cleanly");
        }
        drop(self.lock);
    }

    /// Writes one group and answers it.
    async fn tick(&mut self, jobs: &mut Vec<Job>) {
        let ops: Vec<&Op> = jobs.iter().map(|job| &job.op).collect();
        let replies: Vec<Result<Reply, StoreError>> = match self.transaction(&ops).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err(Failed::Begin(error)) => ops.iter().map(|_| Err(error.clone())).collect(),
            Err(Failed::Group(error)) if ops.len() == 1 => vec![Err(error)],
            Err(Failed::Group(error)) => {
                tracing::debug!(%error, operations = ops.len(), "a group failed: each of its operations is run alone");
                let mut replies = Vec::with_capacity(ops.len());
                for op in &ops {
                    replies.push(self.alone(op).await);
                }
                replies
            }
        };
        for (job, reply) in jobs.drain(..).zip(replies) {
            // The caller may have gone; what was written stays written.
            let _ = job.reply.send(reply);
        }
    }

    async fn alone(&mut self, op: &Op) -> Result<Reply, StoreError> {
        let missing = || StoreError::Corrupt("an operation was left without an answer".to_owned());
        match self.transaction(&[op]).await {
            Ok(replies) => replies.into_iter().next().ok_or_else(missing),
            Err(Failed::Begin(error) | Failed::Group(error)) => Err(error),
        }
    }

    async fn transaction(&mut self, ops: &[&Op]) -> Result<Vec<Reply>, Failed> {
        if let Err(error) = execute(&mut self.conn, "BEGIN IMMEDIATE", args![]).await {
            self.roll_back().await;
            return Err(Failed::Begin(error));
        }
        let now_ms = self.clock.now_ms();
        let result = match group(&mut self.conn, &mut self.context, now_ms, ops).await {
            Ok(replies) => execute(&mut self.conn, "COMMIT", args![]).await.map(|_| replies),
            Err(error) => Err(error),
        };
        match result {
            Ok(replies) => Ok(replies),
            Err(error) => {
                self.roll_back().await;
                Err(Failed::Group(error))
            }
        }
    }

    /// Leaves the connection without a transaction. `SQLite` rolls back by itself after some errors
    /// (a full disk), and then refuses a ROLLBACK; since that looks like a broken connection, the
    /// connection is replaced in both cases.
    async fn roll_back(&mut self) {
        if execute(&mut self.conn, "ROLLBACK", args![]).await.is_ok() {
            return;
        }
        match self.options.connect().await {
            Ok(conn) => self.conn = conn,
            Err(error) => {
                tracing::error!(error = %store_error(&error), "the database cannot be opened again")
            }
        }
    }
}

/// Where a transaction failed.
enum Failed {
    /// Before it began: nobody's fault.
    Begin(StoreError),
    /// Underway.
    Group(StoreError),
}

/// All operations of a group: those that share statements first.
async fn group(
    conn: &mut SqliteConnection,
    context: &mut Context,
    now_ms: u64,
    ops: &[&Op],
) -> Result<Vec<Reply>, StoreError> {
    let shared = ops.iter().filter_map(|op| if let Op::Shared(op) = op { Some(op) } else { None });
    let mut known = load::load(conn, &context.status, &ReadSet::by(shared)).await?;
    let mut numbers = context.numbers;
    let mut plan = context.plan(&mut numbers, now_ms);
    let mut replies = Vec::with_capacity(ops.len());
    for op in ops {
        replies.push(match op {
            Op::Shared(op) => {
                Some(Reply::Shared(transaction::decide(&mut known, &mut plan, &context.status, op)))
            }
            _ => None,
        });
    }
    write::write(conn, context, plan).await?;
    context.numbers = numbers;
    let mut answered = Vec::with_capacity(ops.len());
    for (op, reply) in ops.iter().zip(replies) {
        answered.push(match reply {
            Some(reply) => reply,
            None => single(conn, context, now_ms, op).await?,
        });
    }
    Ok(answered)
}

/// The operations that come one at a time.
async fn single(
    conn: &mut SqliteConnection,
    context: &mut Context,
    now_ms: u64,
    op: &Op,
) -> Result<Reply, StoreError> {
    match op {
        Op::Shared(_) => Err(StoreError::Corrupt("a shared operation was left over".to_owned())),
        Op::Postponed { ids, due_at_ms } => {
            outbox::postpone(conn, ids, *due_at_ms).await.map(|()| Reply::Written)
        }
        Op::Claim { limit } => outbox::claim(conn, context, now_ms, *limit).await.map(Reply::Rows),
        Op::Requeue { stage, events, queued_before_ms } => {
            let lost = outbox::Candidates { stage, events, queued_before_ms: *queued_before_ms };
            outbox::requeue(conn, context, now_ms, lost).await.map(Reply::Rows)
        }
        Op::Replay { id, expires_at_ms } => {
            dead_letters::replay(conn, context, now_ms, (*id, *expires_at_ms))
                .await
                .map(Reply::DeadLetter)
        }
        Op::ReplayEdited { id, event } => {
            dead_letters::replay_edited(conn, context, now_ms, (*id, event))
                .await
                .map(Reply::DeadLetter)
        }
        Op::Discard { id, reason } => {
            dead_letters::discard(conn, now_ms, (*id, reason)).await.map(Reply::DeadLetter)
        }
        Op::RecordBindings { used, live_ms } => {
            let known = hosts::record_bindings(conn, context, now_ms, (used, *live_ms)).await?;
            Ok(Reply::Bindings(known))
        }
        Op::DeleteBinding { binding, live_ms } => {
            hosts::delete_binding(conn, now_ms, (binding, *live_ms)).await.map(Reply::StageDeletion)
        }
        Op::Prune { before_ms, limit } => {
            prune::prune(conn, now_ms, *before_ms, *limit).await.map(Reply::Pruned)
        }
        Op::SetStageControl { stage, state, reason } => {
            let control =
                dead_letters::set_stage_control(conn, now_ms, (stage, *state, reason.as_deref()))
                    .await?;
            Ok(Reply::Control(control))
        }
        Op::PluginLoaded(load) => {
            dead_letters::plugin_loaded(conn, load).await.map(|()| Reply::Written)
        }
    }
}
