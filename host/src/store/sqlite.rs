//! The store in one `SQLite` file, for a single host: one writer that commits in groups, readers
//! beside it.
//!
//! Bounds: the writer's queue (`committer`), four readers, the caller's page sizes. Guarantees:
//! `synchronous = FULL`, so that what was answered is on disk; a lock file keeps a second host off.
//! Costs: a group is one fsync and a constant number of statements, whatever the number of
//! operations in it.

mod committer;
mod hosts;
mod dead_letters;
mod load;
mod open;
mod outbox;
mod prune;
mod read;
mod rows;
mod sql;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use self::committer::SqliteWriter;
use self::committer::{Committer, Job, Op, QUEUE_OPS, Reply};
pub use self::open::{OpenError, SchemaStatus};
use self::sql::{args, fetch};
use super::decode::Columns as _;
use super::log;
use super::queries;
use super::transaction::{self, Numbers, Times, WriteSet};
use super::{
    Accepted, Batch, Cancelled, Commit, ControlState, DeadLetter, DeadLetterAction,
    DeadLetterCount, DeadLetterFilter, DeadLetterGroup, DeliveryRecord, EventFilter, KnownBindings,
    LockedState, LogRange, LoggedEvent, LostDeliveries, NewCancel, NewEvent, NewOrder, Order,
    OrderCursor, OrderFilter, OutboxRow, Page, PluginLoad, Pruned, RecordedDelivery,
    RecordingCursor, RecordingFilter, SettledOrder, StageBinding, StageControl, StateRow,
    StateSource, Store, StoreError,
};
use crate::domain::clock::Clock;
use crate::domain::event::DeliveryKey;
use crate::domain::order_status::StatusRules;

/// How to open the store.
pub struct SqliteOptions {
    /// The database file; it and its folder are created.
    pub path: PathBuf,
    /// Owner of outbox leases.
    pub host_name: String,
    /// Time for leases and for what is written.
    pub clock: Arc<dyn Clock>,
    /// Order status by events.
    pub status: Arc<StatusRules>,
    /// How long an outbox row is held for sending.
    pub lease_ms: u64,
    /// Most operations in one transaction.
    pub group_max_ops: usize,
    /// Send events that no stage consumes, too: other programs may listen.
    pub publish_all: bool,
}

/// Who writes.
struct Context {
    /// Owner of the leases.
    host: String,
    /// Length of a lease.
    lease_ms: u64,
    /// Order status by events.
    status: Arc<StatusRules>,
    publish_all: bool,
    /// Nobody else writes, so the writer counts.
    numbers: Numbers,
}

impl Context {
    fn plan<'a>(&self, numbers: &'a mut Numbers, now_ms: u64) -> WriteSet<'a> {
        WriteSet::new(numbers, Times { now_ms, due_ms: now_ms }, self.publish_all)
    }
}

/// The store.
pub struct SqliteStore {
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    /// None once closed.
    writer: Mutex<Option<mpsc::Sender<Job>>>,
    /// Tracks the writer: [`Store::close`] waits until it is gone.
    writers: TaskTracker,
}

impl SqliteStore {
    /// Looks at a database file without changing it.
    pub async fn examine(path: &Path) -> Result<SchemaStatus, OpenError> {
        open::examine(path).await
    }

    /// Opens the file and brings its schema up to date. Leases of earlier runs are released.
    ///
    /// Nothing is spawned: the caller runs the writer, and writes wait until it does.
    pub async fn open(options: SqliteOptions) -> Result<(Arc<Self>, SqliteWriter), OpenError> {
        let opened = open::open(&options.path).await?;
        let mut conn = opened.writer;
        let failed = |error: StoreError| open::database(&options.path, error);
        hosts::release(&mut conn).await.map_err(failed)?;
        let numbers = last_numbers(&mut conn).await.map_err(failed)?;
        let committer = Committer {
            conn,
            options: opened.writer_options,
            context: Context {
                host: options.host_name,
                lease_ms: options.lease_ms,
                status: options.status,
                publish_all: options.publish_all,
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
            writer: Mutex::new(Some(sender)),
            writers,
        });
        Ok((store, writer))
    }

    fn sender(&self) -> Result<mpsc::Sender<Job>, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clone().filter(|writer| !writer.is_closed()).ok_or_else(closed)
    }

    /// Hands an operation to the writer and waits for its commit. It is carried out even if the
    /// caller stops waiting.
    async fn ask(&self, op: Op) -> Result<Reply, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send(Job { op, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| unanswered())?
    }

    async fn ask_rows(&self, op: Op) -> Result<Vec<OutboxRow>, StoreError> {
        match self.ask(op).await? {
            Reply::Rows(rows) => Ok(rows),
            other => Err(mixed_up(&other)),
        }
    }

    async fn ask_letter(&self, op: Op) -> Result<DeadLetterAction, StoreError> {
        match self.ask(op).await? {
            Reply::DeadLetter(action) => Ok(action),
            other => Err(mixed_up(&other)),
        }
    }

    async fn ask_written(&self, op: Op) -> Result<(), StoreError> {
        match self.ask(op).await? {
            Reply::Written => Ok(()),
            other => Err(mixed_up(&other)),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// The writer panicked, or the host stopped it, between taking the operation and answering.
fn unanswered() -> StoreError {
    StoreError::Unavailable("the writer stopped before it answered; retry".to_owned())
}

fn mixed_up(reply: &Reply) -> StoreError {
    StoreError::Corrupt(format!("the writer answered another question: {reply:?}"))
}

/// Where the numbering of events and outbox rows goes on: the writer counts, since nobody else
/// writes.
async fn last_numbers(conn: &mut SqliteConnection) -> Result<Numbers, StoreError> {
    let sql = "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), \
               coalesce((SELECT max(seq) FROM events), 0)), coalesce((SELECT max(id) FROM outbox), 0)";
    let rows = fetch(conn, sql, args![]).await?;
    let row =
        rows.first().ok_or_else(|| StoreError::Corrupt("no row where one belongs".to_owned()))?;
    Ok(Numbers { event: row.int(0)?, outbox: row.int(1)? })
}

#[async_trait]
impl StateSource for SqliteStore {
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        queries::state_get(&self.readers, stage, key).await
    }

    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        read::state_folders(&self.readers, stage, folders).await
    }

    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        queries::state_keys(&self.readers, stage, prefix, after, limit).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn accept_order(
        &self,
        order: NewOrder,
    ) -> Result<(Accepted, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Shared(transaction::Op::Order(Box::new(order)))).await? {
            Reply::Shared(transaction::Reply::Order(accepted, rows)) => Ok((accepted, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn accept_event(&self, event: NewEvent) -> Result<(bool, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Shared(transaction::Op::Event(Box::new(event)))).await? {
            Reply::Shared(transaction::Reply::Event(new, rows)) => Ok((new, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn cancel_order(
        &self,
        cancel: NewCancel,
    ) -> Result<(Cancelled, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Shared(transaction::Op::Cancel(Box::new(cancel)))).await? {
            Reply::Shared(transaction::Reply::Cancel(cancelled, rows)) => Ok((cancelled, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Commit, StoreError> {
        match self.ask(Op::Shared(transaction::Op::Commit(batch))).await? {
            Reply::Shared(transaction::Reply::Commit(commit)) => Ok(commit),
            other => Err(mixed_up(&other)),
        }
    }

    /// One host, one writer: whoever was refused reads again and wins.
    async fn lock_state(
        &self,
        _: &str,
        _: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        Ok(None)
    }

    async fn claim_outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        if limit == 0 || !outbox::claimable(&self.readers, self.clock.now_ms()).await? {
            return Ok(Vec::new());
        }
        self.ask_rows(Op::Claim { limit }).await
    }

    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        match self.ask(Op::Shared(transaction::Op::Sent(ids))).await? {
            Reply::Shared(transaction::Reply::Sent) => Ok(()),
            other => Err(mixed_up(&other)),
        }
    }

    async fn outbox_postponed(&self, ids: Vec<i64>, due_at_ms: u64) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.ask_written(Op::Postponed { ids, due_at_ms }).await
    }

    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let events = outbox::lost(&self.readers, stage, lost.queued_before_ms, lost.limit).await?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let (stage, queued_before_ms) = (stage.to_owned(), lost.queued_before_ms);
        self.ask_rows(Op::Requeue { stage, events, queued_before_ms }).await
    }

    async fn already_settled(
        &self,
        keys: Vec<(DeliveryKey, u32, u32)>,
    ) -> Result<Vec<DeliveryKey>, StoreError> {
        read::already_settled(&self.readers, &keys).await
    }

    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        queries::order_by_id(&self.readers, id).await
    }

    async fn orders(&self, filter: OrderFilter) -> Result<Page<Order>, StoreError> {
        queries::orders(&self.readers, &filter).await
    }

    /// There is one writer, so positions are committed in their order.
    async fn log_end(&self) -> Result<i64, StoreError> {
        let rows =
            fetch(&self.readers, "SELECT coalesce(max(seq), 0) FROM events", args![]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError> {
        log::events(&self.readers, &filter, range).await
    }

    async fn events_of_orders(
        &self,
        orders: &[OrderCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        log::events_of_orders(&self.readers, orders, limit).await
    }

    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError> {
        log::events_by_id(&self.readers, id).await
    }

    async fn settled_orders(&self, orders: &[String]) -> Result<Vec<SettledOrder>, StoreError> {
        log::settled_orders(&self.readers, orders).await
    }

    async fn order_deliveries(&self, order_id: &str) -> Result<Vec<DeliveryRecord>, StoreError> {
        queries::order_deliveries(&self.readers, order_id).await
    }

    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        queries::delivery(&self.readers, key).await
    }

    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError> {
        queries::recordings(&self.readers, &filter).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
        queries::dead_letters(&self.readers, &filter).await
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        queries::dead_letter(&self.readers, id).await
    }

    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError> {
        queries::dead_letter_groups(&self.readers, &filter).await
    }

    async fn count_dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterCount, StoreError> {
        queries::count_dead_letters(&self.readers, &filter).await
    }

    async fn dead_letter_ids(
        &self,
        filter: DeadLetterFilter,
        after: i64,
    ) -> Result<Vec<i64>, StoreError> {
        queries::dead_letter_ids(&self.readers, &filter, after).await
    }

    async fn replay(&self, id: i64, expires_at_ms: u64) -> Result<DeadLetterAction, StoreError> {
        self.ask_letter(Op::Replay { id, expires_at_ms }).await
    }

    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
    ) -> Result<DeadLetterAction, StoreError> {
        let event = Box::new(event);
        self.ask_letter(Op::ReplayEdited { id, event }).await
    }

    async fn discard(&self, id: i64, reason: String) -> Result<DeadLetterAction, StoreError> {
        self.ask_letter(Op::Discard { id, reason }).await
    }

    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError> {
        self.ask_written(Op::PluginLoaded(load)).await
    }

    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
        queries::plugin_loads(&self.readers, stage, limit).await
    }

    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError> {
        queries::stage_controls(&self.readers).await
    }

    async fn set_stage_control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<StageControl, StoreError> {
        match self.ask(Op::SetStageControl { stage: stage.to_owned(), state, reason }).await? {
            Reply::Control(control) => Ok(control),
            other => Err(mixed_up(&other)),
        }
    }

    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError> {
        match self.ask(Op::RecordBindings { used, live_ms }).await? {
            Reply::Bindings(known) => Ok(known),
            other => Err(mixed_up(&other)),
        }
    }

    async fn delete_binding(
        &self,
        binding: StageBinding,
        live_ms: u64,
    ) -> Result<bool, StoreError> {
        match self.ask(Op::DeleteBinding { binding, live_ms }).await? {
            Reply::StageDeletion(forgotten) => Ok(forgotten),
            other => Err(mixed_up(&other)),
        }
    }

    /// There is one host.
    async fn lease_stage(&self, _: &str, _: u64) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn release_stage(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn prune(&self, before_ms: u64, limit: u32) -> Result<Pruned, StoreError> {
        match self.ask(Op::Prune { before_ms, limit }).await? {
            Reply::Pruned(pruned) => Ok(pruned),
            other => Err(mixed_up(&other)),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.sender()?;
        fetch(&self.readers, "SELECT 1", args![]).await.map(|_| ())
    }

    async fn close(&self) {
        // The writer ends when the last sender is gone: calls in flight drop theirs once they are
        // answered.
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Readers first: an open one would keep the log from being taken back into the file.
        self.readers.close().await;
        self.writers.close();
        self.writers.wait().await;
    }
}
