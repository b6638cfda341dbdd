//! Readiness: whether this host can do its work, and what is in the way.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use super::App;
use super::cluster::HostStatus;
use super::stages::StageStatus;
pub use crate::background::health::FailingTask;
use crate::background::task::Impact;
use crate::pipeline::{Consumption, Stage};
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{ControlState, UnroutedEvents};

/// How long a readiness probe waits for the store and the broker.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a host can do its work.
///
/// ```no_run
/// # async fn example(app: &postrider::App) {
/// let readiness = app.readiness().await;
/// if !readiness.ready {
///     eprintln!("store: {:?}, broker: {:?}", readiness.store, readiness.broker);
///     eprintln!("without a plugin: {}", readiness.stages_without_plugin.join(", "));
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Readiness {
    /// The store and the broker answer, every stage has a plugin and is consumed, the start skipped
    /// no plugin, no critical task is failing, and the host is not stopping.
    pub ready: bool,
    /// Why the store does not answer.
    pub store: Option<String>,
    /// Why the broker does not answer.
    pub broker: Option<String>,
    /// Stages without a plugin.
    pub stages_without_plugin: Vec<String>,
    /// Plugin files that were in the folder when the host started and do not serve, or the folder if
    /// it could not be read. A file that is refused later does not affect readiness.
    pub skipped_plugins: Vec<SkippedPlugin>,
    /// Stages that events are routed to and that no live host of the namespace runs: their messages wait,
    /// whichever host is asked. They do not affect the readiness of this host.
    pub stages_without_host: Vec<String>,
    /// Stages that operators paused or drain, on any host; they do not affect readiness.
    pub held: Vec<String>,
    /// Stages whose circuit breaker is not closed on some host; they do not affect readiness.
    pub breakers_open: Vec<String>,
    /// Stages whose queue this host should consume, but does not.
    pub not_consuming: Vec<String>,
    /// Background tasks that ended or panicked and have not recovered. Readiness is affected by
    /// those whose [`Impact`] is critical.
    pub failing_tasks: Vec<FailingTask>,
    /// Events of unfinished subjects that no stage consumes; they do not affect readiness.
    pub unrouted: Vec<UnroutedEvents>,
    /// The host is stopping.
    pub stopping: bool,
}

/// A plugin file that the start skipped.
///
/// ```no_run
/// # async fn example(app: &postrider::App) {
/// for skipped in app.readiness().await.skipped_plugins {
///     eprintln!("{}: {}", skipped.file, skipped.error);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedPlugin {
    /// Its name, or the path of the folder.
    pub file: String,
    /// Why it does not serve.
    pub error: String,
    /// What has to change before it does.
    pub waiting_for: Option<String>,
}

impl App {
    /// Asks the store and the broker, and returns whether this host can do its work.
    pub async fn readiness(&self) -> Readiness {
        // Asked together and with a limit: a probe is answered even while a writer hangs or is down.
        let (store, broker) =
            tokio::join!(problem(self.services.store.ping()), problem(self.services.broker.ping()));
        let stages_without_plugin = self.stages_that(|stage| stage.running().is_none());
        let skipped_plugins = self.skipped_plugins();
        let not_consuming =
            self.stages_that(|stage| stage.consumption() == Consumption::Connecting);
        let failing_tasks = self.failing_tasks();
        let critical = |task: &FailingTask| task.name.task.impact() == Impact::Critical;
        let stopping = self.stopping.is_cancelled();
        let hosts = self.hosts();
        let ready = store.is_none()
            && broker.is_none()
            && stages_without_plugin.is_empty()
            && skipped_plugins.is_empty()
            && not_consuming.is_empty()
            && !failing_tasks.iter().any(critical)
            && !stopping;
        Readiness {
            ready,
            store,
            broker,
            stages_without_plugin,
            skipped_plugins,
            stages_without_host: Self::stages_without_host(
                &hosts,
                &self.services.pipeline.bound_stages(),
            ),
            held: stages_of(&hosts, |stage| stage.control != ControlState::Running),
            breakers_open: stages_of(&hosts, |stage| stage.breaker.state != BreakerState::Closed),
            not_consuming,
            failing_tasks,
            unrouted: self.unrouted_events(),
            stopping,
        }
    }

    fn skipped_plugins(&self) -> Vec<SkippedPlugin> {
        let files = self.files.all().into_iter();
        let skipped = files.filter(|(_, status)| status.skipped_at_start && !status.removed);
        let skipped = skipped.map(|(file, status)| SkippedPlugin {
            file,
            error: status.error.unwrap_or_default(),
            waiting_for: status.waiting_for,
        });
        let folder = self.files.folder_skipped_at_start().map(|error| SkippedPlugin {
            file: self.places.dir.display().to_string(),
            error,
            waiting_for: None,
        });
        skipped.chain(folder).collect()
    }

    /// The events of unfinished subjects that wait for a stage, by type, as last counted.
    pub fn unrouted_events(&self) -> Vec<UnroutedEvents> {
        self.services.unrouted.load().to_vec()
    }

    /// The background tasks that ended or panicked and have not recovered.
    pub fn failing_tasks(&self) -> Vec<FailingTask> {
        self.tasks.failing()
    }

    /// How often each background task was restarted since the host was built, by the task's name.
    pub fn task_restarts(&self) -> Vec<(String, u64)> {
        let restarts = self.tasks.restarts().into_iter();
        restarts.map(|(name, count)| (name.to_string(), count)).collect()
    }

    fn stages_that(&self, applies: fn(&Stage) -> bool) -> Vec<String> {
        let stages = self.services.pipeline.stages().into_iter();
        stages.filter(|stage| applies(stage)).map(|stage| stage.name.to_string()).collect()
    }
}

/// The stages to which this applies on some host, by name.
fn stages_of(hosts: &[HostStatus], applies: fn(&StageStatus) -> bool) -> Vec<String> {
    let stages = hosts.iter().flat_map(|host| &host.stages).filter(|stage| applies(stage));
    let names: BTreeSet<&String> = stages.map(|stage| &stage.stage).collect();
    names.into_iter().cloned().collect()
}

/// What is wrong with a service, if it answers with an error or not in time.
async fn problem<E: Display>(ping: impl Future<Output = Result<(), E>>) -> Option<String> {
    match tokio::time::timeout(PING_TIMEOUT, ping).await {
        Ok(answer) => answer.err().map(|error| error.to_string()),
        Err(_) => Some(format!("no answer within {} ms", PING_TIMEOUT.as_millis())),
    }
}
