//! The store in Postgres, for any number of hosts: each has one writer that commits in groups, and
//! a small pool beside it.
//!
//! Bounds: the writer's queue (`transaction::queue`), the pool's connections, a time-out on everything, the
//! caller's page sizes. Guarantees: a reply follows the commit; what a decision depends on is
//! verified in the transaction that writes its outcome, so hosts coordinate through the database
//! alone. Costs: a group is one commit and a constant number of statements, whatever its size.

mod audit;
mod api_keys;
mod commands;
mod committer;
mod connect;
mod chains;
mod controls;
mod data_keys;
mod dead_letters;
mod erasure;
mod hosts;
mod load;
mod locked;
mod log;
mod message_keys;
mod open;
mod open_error;
mod pool;
mod outbox;
mod port;
mod prune;
mod read;
mod session;
mod sql;
mod state_places;
mod state_tables;
mod statistics;
#[cfg(test)]
mod tests;
mod transaction;
mod url;
mod within;
mod write;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::committer::Committer;
pub use self::committer::PostgresWriter;
use self::open::ConnectionSource;
pub use self::open::{DatabaseStatus, PostgresSettings};
pub use self::open_error::OpenError;
use self::pool::Pool;
use self::session::Session;
pub use self::state_places::{MovedState, PlaceProblem};
use self::state_tables::{StateTable, StateTables};
pub use self::statistics::{TableWrites, WriteAheadLog};
pub use self::within::WithinError;
use super::transaction::{Op, Operation, Request, WriterQueue};
use super::{Publishing, StoreError};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::encryption::Encryption;
use crate::domain::state_place::StatePlaces;
use crate::domain::subject_kind::SubjectKinds;

/// How to open the store.
pub struct PostgresOptions {
    /// A connection string of libpq.
    pub url: String,
    /// The namespace whose tables are used.
    pub namespace: String,
    /// Owner of outbox leases: unique per host.
    pub host_name: String,
    /// The host's clock; leases count by the database's.
    pub clock: Arc<dyn Clock>,
    /// Follows the database's clock: the host's time, unless it was given another clock.
    pub steady: Option<Arc<SteadyClock>>,
    /// Leases count by `clock` as well: for tests with a manual clock.
    pub host_time: bool,
    /// Stages whose state has a place of its own.
    pub places: StatePlaces,
    /// Subject status by events.
    pub kinds: Arc<SubjectKinds>,
    /// How long an outbox row is held for sending.
    pub lease_ms: u64,
    /// Maximum number of operations in one transaction.
    pub group_max_ops: usize,
    /// What is sent, and how.
    pub publishing: Publishing,
    /// Connections beside the writer's.
    pub connections: u32,
    /// A pool of the embedding program, which is used instead of the URL and of connections beside
    /// the writer's.
    pub pool: Option<PgPool>,
    /// Longest wait for a connection, and for a transaction.
    pub timeout_ms: u64,
    /// Longest time for migrations, the wait for those of other hosts included.
    pub migration_timeout_ms: u64,
    /// Migrates the schema; otherwise an outdated schema is refused.
    pub migrate: bool,
    /// Seals what is stored.
    pub encryption: Arc<Encryption>,
}

/// What all transactions of this host share.
struct Context {
    host: String,
    lease_ms: u64,
    kinds: Arc<SubjectKinds>,
    publishing: Publishing,
    clock: Arc<dyn Clock>,
    steady: Option<Arc<SteadyClock>>,
    host_time: bool,
    prune: prune::Cursors,
    state: StateTables,
    encryption: Arc<Encryption>,
    /// The settings of a transaction of the embedding program, while this module uses it.
    within: Session,
}

impl Context {
    /// The time that leases count by; none: the database's.
    fn fixed_time(&self) -> Option<i64> {
        self.host_time.then(|| self.clock.now_ms() as i64)
    }
}

/// The store.
pub struct PostgresStore {
    pool: Pool,
    context: Arc<Context>,
    log_end: log::End,
    /// Batches that may hold a connection while they run: half of the pool.
    lock_slots: Arc<Semaphore>,
    timeout: Duration,
    writer: WriterQueue<Op>,
    /// Tracks the writer: [`Store::close`](super::Store::close) waits until it is gone.
    writers: TaskTracker,
}

/// Longest time to tell the other hosts that this one stops.
const FAREWELL: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Connects and migrates the schema.
    ///
    /// Nothing is spawned: the caller runs the writer, and group-committed operations wait until it
    /// does.
    pub async fn open(options: PostgresOptions) -> Result<(Arc<Self>, PostgresWriter), OpenError> {
        let timeout = Duration::from_millis(options.timeout_ms);
        let (source, connections) = match options.pool {
            Some(pool) => {
                let connections = pool.options().get_max_connections();
                (ConnectionSource::Pool(pool), connections)
            }
            None => {
                let connections = options.connections.max(2);
                (ConnectionSource::Url { connections }, connections)
            }
        };
        let settings = PostgresSettings {
            url: &options.url,
            namespace: &options.namespace,
            places: &options.places,
            timeout,
            migration_timeout: Duration::from_millis(options.migration_timeout_ms),
        };
        let opened =
            Box::pin(open::open(settings, (options.migrate, &options.encryption), source)).await?;
        if let Some(clock) = &options.steady {
            clock.begin_at(opened.now_ms);
        }
        let context = Arc::new(Context {
            host: options.host_name,
            lease_ms: options.lease_ms,
            kinds: options.kinds,
            publishing: options.publishing,
            clock: options.clock,
            steady: options.steady,
            host_time: options.host_time,
            prune: prune::Cursors::default(),
            state: StateTables::new(&options.places),
            encryption: options.encryption,
            within: Session::within_transaction(&opened.schema, timeout),
        });
        let committer = Committer {
            target: opened.target,
            pool: opened.pool.clone(),
            // It opens one where it runs.
            conn: None,
            context: Arc::clone(&context),
            group_max_ops: options.group_max_ops.max(1),
            cautious_groups: 0,
            timeout,
        };
        let (queue, receiver) = WriterQueue::new();
        let writers = TaskTracker::new();
        let writer =
            PostgresWriter::new(committer, receiver, Arc::clone(queue.commits()), writers.token());
        let store = Arc::new(Self {
            pool: opened.pool,
            context,
            log_end: log::End::default(),
            lock_slots: Arc::new(Semaphore::new(connections as usize / 2)),
            timeout,
            writer: queue,
            writers,
        });
        Ok((store, writer))
    }

    /// Migrates the schema, and nothing else. Returns what was moved.
    pub async fn migrate(settings: PostgresSettings<'_>) -> Result<Vec<MovedState>, OpenError> {
        Box::pin(open::migrate_only(settings)).await
    }

    /// Inspects a database without changing it.
    pub async fn examine(
        settings: PostgresSettings<'_>,
        kinds: &SubjectKinds,
    ) -> Result<DatabaseStatus, OpenError> {
        Box::pin(open::examine(settings, &kinds.finished_statuses())).await
    }

    /// What was written to each table of a namespace, as the server has counted it so far.
    pub async fn table_writes(
        settings: PostgresSettings<'_>,
    ) -> Result<Vec<TableWrites>, OpenError> {
        statistics::tables(settings).await
    }

    /// The server's write-ahead log.
    pub async fn write_ahead_log(
        settings: PostgresSettings<'_>,
    ) -> Result<WriteAheadLog, OpenError> {
        statistics::log(settings).await
    }

    /// Deletes everything of a namespace that is not the default one.
    pub async fn drop_namespace(settings: PostgresSettings<'_>) -> Result<(), OpenError> {
        Box::pin(open::drop_namespace(settings)).await
    }

    /// The table of a stage's state; an error when it was moved.
    fn table(&self, stage: &str) -> Result<&StateTable, StoreError> {
        self.context.state.usable(stage)
    }

    /// Queues an operation for the writer and waits for its commit.
    async fn submit<O: Operation>(&self, operation: O) -> Result<O::Reply, StoreError>
    where
        Op: From<Request<O>>,
    {
        self.writer.submit(operation, Op::from).await
    }

    /// Applies the time-out to work on the pool.
    async fn within<T, E: Into<StoreError>>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(StoreError::timed_out("no reply", self.timeout)),
        }
    }
}
