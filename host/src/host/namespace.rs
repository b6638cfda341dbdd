//! One namespace of a host: its store, broker, plugins and tasks, on the threads of the program, or on
//! its own if it is one of several.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::DropGuard;
use tracing::Span;

use super::error::RunError;
use super::own_threads::OwnThreads;
use super::tasks::HostTasks;
use crate::app::App;
use crate::config::Config;
use crate::plugins::supervisor::PluginSupervisor;
use crate::relay::Relay;

/// A built namespace.
pub(super) struct Namespace {
    pub(super) config: Config,
    pub(super) app: Arc<App>,
    pub(super) relay: Relay,
    pub(super) plugins: PluginSupervisor,
    pub(super) tasks: HostTasks,
    /// Who may use its API.
    #[cfg(feature = "http")]
    pub(super) access: Arc<crate::http::Access>,
    /// In which its tasks and requests run.
    pub(super) span: Span,
    /// Where it was built, and runs.
    pub(super) runtime: Handle,
    /// The same, if these are threads of its own. Dropped after the tasks.
    pub(super) threads: Option<OwnThreads>,
}

impl Namespace {
    /// Starts to consume and to send. `named`: errors name the namespace.
    pub(super) fn start(self, named: bool) -> Result<RunningNamespace, RunError> {
        #[cfg(feature = "http")]
        let access = Arc::clone(&self.access);
        let Self { config, app, relay, plugins, tasks, threads, .. } = self;
        let running = RunningNamespace {
            _close_streams: app.event_feed().close_on_drop(),
            name: config.namespace.clone(),
            named,
            app,
            tasks,
            threads,
        };
        if let Some(failure) = running.tasks.failure() {
            return Err(running.named(failure.into()));
        }
        let _entered = self.runtime.enter();
        running.tasks.start_background(&running.app, &config);
        #[cfg(feature = "http")]
        running.tasks.start_access(&access);
        running.tasks.start_plugins(plugins);
        running.tasks.start_relay(relay);
        let stages = running.app.services().pipeline.consuming().join(",");
        self.span.in_scope(|| tracing::info!(%stages, "running"));
        Ok(running)
    }
}

/// A running namespace. Dropping it stops everything without a grace period.
pub(super) struct RunningNamespace {
    /// Ends the event streams, also those that the embedding program holds.
    _close_streams: DropGuard,
    pub(super) name: String,
    /// Whether errors name it.
    named: bool,
    pub(super) app: Arc<App>,
    pub(super) tasks: HostTasks,
    /// Dropped after the tasks.
    threads: Option<OwnThreads>,
}

impl RunningNamespace {
    /// Waits until a background task has failed too often.
    pub(super) async fn failed(&self) -> RunError {
        self.named(self.tasks.failed().await.into())
    }

    /// Closes the store and the broker, and ends every task and thread that is left.
    pub(super) async fn close(self) -> Result<(), RunError> {
        self.tasks.begin_close();
        let services = self.app.services();
        services.broker.close().await;
        services.store.close().await;
        let failure = self.tasks.failure().map(|failure| self.named(failure.into()));
        self.tasks.end().await;
        if let Some(threads) = self.threads {
            threads.end().await;
        }
        failure.map_or(Ok(()), Err)
    }

    fn named(&self, error: RunError) -> RunError {
        if !self.named {
            return error;
        }
        RunError::Namespace { name: self.name.clone(), source: Box::new(error) }
    }
}
