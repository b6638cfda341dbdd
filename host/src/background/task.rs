//! Every long-lived task of a host, in one table.
//!
//! The [supervisor](super::supervisor) only runs tasks that are listed here, and tests iterate over
//! [`Task::ALL`], so a new task cannot be forgotten. Short-lived work (a lane of a worker, a
//! dead-letter job, a compilation) belongs to the task that starts it and ends with it.

use std::fmt;
use std::sync::Arc;

/// What a failing task means for the host's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Subjects are not accepted or processed as they should be: the host is not ready.
    Critical,
    /// Subjects are processed all the same: `/ready` lists the task, and stays ready.
    Upkeep,
}

macro_rules! tasks {
    ($($(#[$doc:meta])* $task:ident = $name:literal, $impact:ident;)*) => {
        /// A long-lived task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Task {
            $($(#[$doc])* $task,)*
        }

        impl Task {
            /// The whole table.
            pub const ALL: &[Self] = &[$(Self::$task),*];

            /// The name in `/ready`, metrics and log messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$task => $name,)*
                }
            }

            /// What it means when it fails.
            pub const fn impact(self) -> Impact {
                match self {
                    $(Self::$task => Impact::$impact,)*
                }
            }
        }
    };
}

tasks! {
    /// Commits the operations that wait for the store.
    StoreWriter = "store-writer", Critical;
    /// Keeps the connection that messages are published on; RabbitMQ only.
    RabbitmqPublishing = "rabbitmq-publishing", Critical;
    /// Keeps the connection that messages are consumed on; RabbitMQ only.
    RabbitmqConsuming = "rabbitmq-consuming", Critical;
    /// Advances the epoch by which guests are interrupted.
    EpochTicker = "epoch-ticker", Critical;
    /// Publishes the rows of the outbox.
    Relay = "relay", Critical;
    /// Refills queues that lost messages.
    Reconciler = "reconciler", Critical;
    /// Routes events that wait for a stage.
    UnroutedEvents = "unrouted-events", Critical;
    /// Serves the HTTP API.
    HttpServer = "http-server", Critical;
    /// Follows the files of the API's certificate; encrypted APIs only.
    TlsCertificates = "tls-certificates", Upkeep;
    /// Consumes the queue of a stage; one for each stage.
    StageWorker = "stage-worker", Critical;
    /// Handles what the broker rejected for a stage; one for each stage.
    PoisonMessages = "poison-messages", Upkeep;
    /// Scans the plugins folder for changes.
    PluginWatcher = "plugin-watcher", Upkeep;
    /// Loads, swaps and stops plugins.
    PluginSupervisor = "plugin-supervisor", Upkeep;
    /// Feeds live event streams.
    EventFeed = "event-feed", Upkeep;
    /// Runs bulk replays and discards of dead letters.
    DeadLetterJobs = "dead-letter-jobs", Upkeep;
    /// Follows the stage controls in the store.
    ControlSync = "control-sync", Upkeep;
    /// Follows the API keys in the store; only if requests need tokens.
    ApiKeys = "api-keys", Upkeep;
    /// Reads the keys of JSON Web Tokens; only if an issuer is configured.
    JwtKeys = "jwt-keys", Upkeep;
    /// Exchanges bindings with other hosts.
    BindingSync = "binding-sync", Upkeep;
    /// Exchanges what hosts run, and what they ask each other to do.
    HostReports = "host-reports", Upkeep;
    /// Deletes finished subjects past their retention period.
    Retention = "retention", Upkeep;
    /// Counts what waits in the store, for metrics.
    StoreFigures = "store-figures", Upkeep;
    /// Drops warm instances that have been idle too long.
    IdleInstances = "idle-instances", Upkeep;
}

impl Task {
    /// Whether it has a thread of its own: it runs as soon as it can, instead of after what the
    /// runtime's threads have to run before. What it waits for must not belong to the runtime.
    pub const fn has_own_thread(self) -> bool {
        // Every message waits for it.
        matches!(self, Self::StoreWriter)
    }
}

/// Names a running task: `relay`, or `stage-worker:payment` for one that a stage has of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskName {
    pub(crate) task: Task,
    stage: Option<Arc<str>>,
}

impl TaskName {
    /// The task of one stage.
    pub fn of_stage(task: Task, stage: &Arc<str>) -> Self {
        Self { task, stage: Some(Arc::clone(stage)) }
    }
}

impl From<Task> for TaskName {
    fn from(task: Task) -> Self {
        Self { task, stage: None }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.task.name())?;
        self.stage.as_ref().map_or(Ok(()), |stage| write!(formatter, ":{stage}"))
    }
}
