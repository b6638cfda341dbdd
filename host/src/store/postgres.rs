//! The store in Postgres, for any number of hosts: each has one writer that commits in groups, and
//! a small pool beside it.
//!
//! Bounds: the writer's queue (`committer`), the pool's connections, a time-out on everything, the
//! caller's page sizes. Guarantees: an answer comes after the commit; what a decision rested on is
//! verified in the transaction that writes its outcome, so hosts need no agreement beside the
//! database. Costs: a group is one commit and a constant number of statements, whatever its size.

mod committer;
mod hosts;
mod dead_letters;
mod load;
mod locked;
mod log;
mod open;
mod outbox;
mod prune;
mod read;
mod scratch;
mod sql;
#[cfg(test)]
mod tests;
mod write;

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use self::committer::PostgresWriter;
use self::committer::{Committer, Job, QUEUE_OPS};
use self::dead_letters::Action;
pub use self::open::{OpenError, SchemaStatus};
pub use self::scratch::Scratch;
use self::sql::{Refused, args, fetch, store_error};
use super::log as logs;
use super::queries;
use super::transaction::{Op, Reply};
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
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Owner of outbox leases: another one for every host.
    pub host_name: String,
    /// The host's clock; leases count by the database's.
    pub clock: Arc<dyn Clock>,
    /// Leases count by `clock`, too: for tests whose clock stands still.
    pub host_time: bool,
    /// Order status by events.
    pub status: Arc<StatusRules>,
    /// How long an outbox row is held for sending.
    pub lease_ms: u64,
    /// Most operations in one transaction.
    pub group_max_ops: usize,
    /// Send events that no stage consumes, too: other programs may listen.
    pub publish_all: bool,
    /// Connections beside the writer's.
    pub connections: u32,
    /// Longest wait for a connection, and for a transaction.
    pub timeout_ms: u64,
    /// Bring the schema up to date; otherwise an old schema is refused.
    pub migrate: bool,
}

/// Who writes.
struct Context {
    host: String,
    lease_ms: u64,
    status: Arc<StatusRules>,
    publish_all: bool,
    clock: Arc<dyn Clock>,
    host_time: bool,
    prune: prune::Cursors,
}

impl Context {
    /// The time that leases count by; none: the database's.
    fn fixed_time(&self) -> Option<i64> {
        self.host_time.then(|| self.clock.now_ms() as i64)
    }
}

/// The store.
pub struct PostgresStore {
    pool: PgPool,
    context: Arc<Context>,
    log_end: log::End,
    timeout: Duration,
    /// None once closed.
    writer: Mutex<Option<mpsc::Sender<Job>>>,
    /// Tracks the writer: [`Store::close`] waits until it is gone.
    writers: TaskTracker,
}

impl PostgresStore {
    /// Connects and brings the schema up to date.
    ///
    /// Nothing is spawned: the caller runs the writer, and group-committed operations wait until it
    /// does.
    pub async fn open(options: PostgresOptions) -> Result<(Arc<Self>, PostgresWriter), OpenError> {
        let timeout = Duration::from_millis(options.timeout_ms);
        let settings = open::Settings {
            url: &options.url,
            connections: options.connections.max(2),
            timeout,
            migrate: options.migrate,
        };
        let opened = open::open(&settings).await?;
        let context = Arc::new(Context {
            host: options.host_name,
            lease_ms: options.lease_ms,
            status: options.status,
            publish_all: options.publish_all,
            clock: options.clock,
            host_time: options.host_time,
            prune: prune::Cursors::default(),
        });
        let committer = Committer {
            options: opened.options,
            conn: Some(opened.writer),
            context: Arc::clone(&context),
            group_max_ops: options.group_max_ops.max(1),
            timeout,
        };
        let (sender, receiver) = mpsc::channel(QUEUE_OPS);
        let writers = TaskTracker::new();
        let writer = PostgresWriter::new(committer, receiver, writers.token());
        let store = Arc::new(Self {
            pool: opened.pool,
            context,
            log_end: log::End::default(),
            timeout,
            writer: Mutex::new(Some(sender)),
            writers,
        });
        Ok((store, writer))
    }

    /// Brings the schema up to date, and nothing else.
    pub async fn migrate(url: &str, timeout: Duration) -> Result<(), OpenError> {
        open::migrate_only(&open::Settings { url, connections: 1, timeout, migrate: true }).await
    }

    /// Looks at a database without changing it.
    pub async fn examine(url: &str, timeout: Duration) -> Result<SchemaStatus, OpenError> {
        open::examine(&open::Settings { url, connections: 1, timeout, migrate: false }).await
    }

    /// Hands an operation to the writer and waits for its commit. It is carried out even if the
    /// caller stops waiting.
    async fn ask(&self, op: Op) -> Result<Reply, StoreError> {
        let sender = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        sender.send(Job { op, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| unanswered())?
    }

    /// Bounds what runs on the pool.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer within {} ms",
                self.timeout.as_millis()
            ))),
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

/// A pooled connection with a transaction on it. Unless it is kept, it is closed, which rolls the
/// transaction back.
struct Begun(Option<PoolConnection<Postgres>>);

/// A connection for a transaction.
async fn begin_on(pool: &PgPool) -> Result<Begun, Refused> {
    Ok(Begun(Some(pool.acquire().await?)))
}

impl Begun {
    /// The transaction is committed: back to the pool.
    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Begun {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("taken only at the end")
    }
}

impl DerefMut for Begun {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("taken only at the end")
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(conn.detach());
        }
    }
}

#[async_trait]
impl StateSource for PostgresStore {
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        let row = self.within(queries::state_get(&self.pool, stage, key)).await?;
        // Version 0 is a key that was only ever looked for.
        Ok(row.filter(|row| row.version > 0))
    }

    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        self.within(read::state_folders(&self.pool, stage, folders)).await
    }

    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        self.within(queries::state_keys(&self.pool, stage, prefix, after, limit)).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn accept_order(
        &self,
        order: NewOrder,
    ) -> Result<(Accepted, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Order(Box::new(order))).await? {
            Reply::Order(accepted, rows) => Ok((accepted, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn accept_event(&self, event: NewEvent) -> Result<(bool, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Event(Box::new(event))).await? {
            Reply::Event(new, rows) => Ok((new, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn cancel_order(
        &self,
        cancel: NewCancel,
    ) -> Result<(Cancelled, Vec<OutboxRow>), StoreError> {
        match self.ask(Op::Cancel(Box::new(cancel))).await? {
            Reply::Cancel(cancelled, rows) => Ok((cancelled, rows)),
            other => Err(mixed_up(&other)),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Commit, StoreError> {
        match self.ask(Op::Commit(batch)).await? {
            Reply::Commit(commit) => Ok(commit),
            other => Err(mixed_up(&other)),
        }
    }

    async fn lock_state(
        &self,
        stage: &str,
        keys: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        let locked = self
            .within(locked::lock(&self.pool, &self.context, (stage, keys), self.timeout))
            .await?;
        Ok(Some(Box::new(locked)))
    }

    async fn claim_outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        self.within(outbox::claim(&self.pool, &self.context, limit)).await
    }

    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        match self.ask(Op::Sent(ids)).await? {
            Reply::Sent => Ok(()),
            other => Err(mixed_up(&other)),
        }
    }

    async fn outbox_postponed(&self, ids: Vec<i64>, due_at_ms: u64) -> Result<(), StoreError> {
        self.within(outbox::postpone(&self.pool, &ids, due_at_ms)).await
    }

    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.within(outbox::requeue(&self.pool, &self.context, stage, lost)).await
    }

    async fn already_settled(
        &self,
        keys: Vec<(DeliveryKey, u32, u32)>,
    ) -> Result<Vec<DeliveryKey>, StoreError> {
        self.within(read::already_settled(&self.pool, &keys)).await
    }

    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        self.within(queries::order_by_id(&self.pool, id)).await
    }

    async fn orders(&self, filter: OrderFilter) -> Result<Page<Order>, StoreError> {
        self.within(queries::orders(&self.pool, &filter)).await
    }

    async fn log_end(&self) -> Result<i64, StoreError> {
        self.within(self.log_end.find(&self.pool)).await
    }

    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError> {
        self.within(logs::events(&self.pool, &filter, range)).await
    }

    async fn events_of_orders(
        &self,
        orders: &[OrderCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        self.within(logs::events_of_orders(&self.pool, orders, limit)).await
    }

    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError> {
        self.within(logs::events_by_id(&self.pool, id)).await
    }

    async fn settled_orders(&self, orders: &[String]) -> Result<Vec<SettledOrder>, StoreError> {
        self.within(logs::settled_orders(&self.pool, orders)).await
    }

    async fn order_deliveries(&self, order_id: &str) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.within(queries::order_deliveries(&self.pool, order_id)).await
    }

    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        self.within(queries::delivery(&self.pool, key)).await
    }

    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError> {
        self.within(queries::recordings(&self.pool, &filter)).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
        self.within(queries::dead_letters(&self.pool, &filter)).await
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        self.within(queries::dead_letter(&self.pool, id)).await
    }

    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError> {
        self.within(queries::dead_letter_groups(&self.pool, &filter)).await
    }

    async fn count_dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterCount, StoreError> {
        self.within(queries::count_dead_letters(&self.pool, &filter)).await
    }

    async fn dead_letter_ids(
        &self,
        filter: DeadLetterFilter,
        after: i64,
    ) -> Result<Vec<i64>, StoreError> {
        self.within(queries::dead_letter_ids(&self.pool, &filter, after)).await
    }

    async fn replay(&self, id: i64, expires_at_ms: u64) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::act(
            &self.pool,
            &self.context,
            id,
            Action::Replay { expires_at_ms },
        ))
        .await
    }

    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
    ) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::act(&self.pool, &self.context, id, Action::ReplayEdited(&event)))
            .await
    }

    async fn discard(&self, id: i64, reason: String) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::act(
            &self.pool,
            &self.context,
            id,
            Action::Discard { reason: &reason },
        ))
        .await
    }

    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError> {
        self.within(dead_letters::plugin_loaded(&self.pool, &load)).await
    }

    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
        self.within(queries::plugin_loads(&self.pool, stage, limit)).await
    }

    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError> {
        self.within(queries::stage_controls(&self.pool)).await
    }

    async fn set_stage_control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<StageControl, StoreError> {
        let word = (stage, state, reason.as_deref());
        self.within(dead_letters::set_stage_control(&self.pool, self.context.clock.now_ms(), word))
            .await
    }

    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError> {
        self.within(hosts::record_bindings(&self.pool, &self.context, &used, live_ms)).await
    }

    async fn delete_binding(
        &self,
        binding: StageBinding,
        live_ms: u64,
    ) -> Result<bool, StoreError> {
        self.within(hosts::delete_binding(&self.pool, &self.context, &binding, live_ms)).await
    }

    async fn lease_stage(&self, stage: &str, ttl_ms: u64) -> Result<bool, StoreError> {
        self.within(hosts::lease_stage(&self.pool, &self.context, stage, ttl_ms)).await
    }

    async fn release_stage(&self, stage: &str) -> Result<(), StoreError> {
        self.within(hosts::release_stage(&self.pool, &self.context, stage)).await
    }

    async fn prune(&self, before_ms: u64, limit: u32) -> Result<Pruned, StoreError> {
        self.within(prune::prune(&self.pool, &self.context, before_ms, limit)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let asked = async {
            fetch(&self.pool, "SELECT 1", args![])
                .await
                .map(|_| ())
                .map_err(|error| store_error(&error))
        };
        self.within(asked).await
    }

    async fn close(&self) {
        // The writer ends when the last sender is gone: calls in flight drop theirs once they are
        // answered.
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.writers.close();
        self.writers.wait().await;
        if tokio::time::timeout(self.timeout, self.pool.close()).await.is_err() {
            tracing::warn!("some connections were not closed in time");
        }
    }
}
