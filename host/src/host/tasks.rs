//! Starts the host's tasks, in the groups in which they stop: intake first, then the relay, so that
//! what the others still commit is sent, then the tasks of the store and the broker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::RunError;
use crate::app::App;
use crate::app::cluster::sync::HostSync;
use crate::app::event_feed::EventFeed;
use crate::app::keys::Keys;
use crate::background::binding_sync::BindingSync;
use crate::background::control_sync::ControlSync;
use crate::background::faults::TaskFaults;
use crate::background::health::TaskHealth;
use crate::background::idle_instances::IdleInstances;
use crate::background::reconciler::Reconciler;
use crate::background::retention::Retention;
#[cfg(feature = "metrics")]
use crate::background::store_figures::StoreCounter;
use crate::background::supervisor::{Restarts, Supervisor, TaskFailure, TaskGroup};
use crate::background::task::Task;
use crate::background::unrouted_events::UnroutedRouter;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbit::RabbitLinks;
use crate::config::{AuthMode, Config};
#[cfg(feature = "http")]
use crate::http::{Access, Jwt, Server};
use crate::pipeline::plugin_change::PluginChange;
use crate::plugins::supervisor::PluginSupervisor;
#[cfg(feature = "wasm")]
use crate::plugins::watcher::PluginWatcher;
use crate::relay::Relay;
#[cfg(feature = "wasm")]
use crate::runtime::{EpochTicker, Runtime};
#[cfg(feature = "postgres")]
use crate::store::postgres::PostgresWriter;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::SqliteWriter;
#[cfg(all(feature = "http", feature = "tls"))]
use crate::tls::ReloadedTls;

/// Longest wait for tasks that were dropped.
const END_MAX: Duration = Duration::from_secs(1);

/// Every task of a host; dropping it ends them.
pub(super) struct HostTasks {
    supervisor: Supervisor,
    /// Whatever brings new work.
    intake: TaskGroup,
    relay: TaskGroup,
    /// What the store, the broker and the engine need to work.
    ports: TaskGroup,
}

impl HostTasks {
    pub(super) fn new(faults: TaskFaults) -> Self {
        let supervisor = Supervisor::new(Restarts::default(), faults);
        let (intake, relay, ports) = (supervisor.group(), supervisor.group(), supervisor.group());
        Self { supervisor, intake, relay, ports }
    }

    pub(super) fn health(&self) -> Arc<TaskHealth> {
        self.supervisor.health()
    }

    /// The group in which stage workers run.
    pub(super) fn workers(&self) -> TaskGroup {
        self.intake.child()
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn start_sqlite(&self, writer: SqliteWriter) {
        let run = |writer: Arc<SqliteWriter>, _| async move { writer.run().await };
        self.ports.spawn(Task::StoreWriter, Arc::new(writer), run);
    }

    #[cfg(feature = "postgres")]
    pub(super) fn start_postgres(&self, writer: PostgresWriter) {
        let run = |writer: Arc<PostgresWriter>, _| async move { writer.run().await };
        self.ports.spawn(Task::StoreWriter, Arc::new(writer), run);
    }

    #[cfg(feature = "rabbitmq")]
    pub(super) fn start_rabbit(&self, links: RabbitLinks) {
        let RabbitLinks { publishing, consuming } = links;
        for (task, link) in
            [(Task::RabbitmqPublishing, publishing), (Task::RabbitmqConsuming, consuming)]
        {
            self.ports.spawn(task, Arc::new(link), |link, _| async move { link.run().await });
        }
    }

    #[cfg(feature = "wasm")]
    pub(super) fn start_epochs(&self, runtime: &Runtime) {
        let epochs = Arc::clone(runtime.epochs());
        let run = |epochs: Arc<EpochTicker>, stop| async move { epochs.run(stop).await };
        self.ports.spawn(Task::EpochTicker, epochs, run);
    }

    #[cfg(feature = "wasm")]
    pub(super) fn start_plugin_watcher(&self, watcher: PluginWatcher) {
        let run = |watcher: Arc<PluginWatcher>, stop| async move { watcher.run(stop).await };
        self.intake.spawn(Task::PluginWatcher, Arc::new(watcher), run);
    }

    /// Reports that there are no files, and keeps `changes` open: stages report to it as well.
    pub(super) fn start_without_folder(&self, changes: mpsc::Sender<PluginChange>) {
        let run = |changes: Arc<mpsc::Sender<PluginChange>>, stop: CancellationToken| async move {
            let _ = changes.send(PluginChange::ScanComplete).await;
            stop.cancelled().await;
        };
        self.intake.spawn(Task::PluginWatcher, Arc::new(changes), run);
    }

    pub(super) fn start_plugins(&self, plugins: PluginSupervisor) {
        let run = |plugins: Arc<PluginSupervisor>, stop| async move { plugins.run(stop).await };
        self.intake.spawn(Task::PluginSupervisor, Arc::new(plugins), run);
    }

    pub(super) fn start_relay(&self, relay: Relay) {
        let run = |relay: Arc<Relay>, stop| async move { relay.run(stop).await };
        self.relay.spawn(Task::Relay, Arc::new(relay), run);
    }

    #[cfg(feature = "http")]
    pub(super) fn start_server(&self, server: Server) {
        let run = |server: Arc<Server>, stop| async move { server.run(stop).await };
        self.intake.spawn(Task::HttpServer, Arc::new(server), run);
    }

    #[cfg(all(feature = "http", feature = "tls"))]
    pub(super) fn start_certificates(&self, tls: Arc<ReloadedTls>) {
        self.intake.spawn(Task::TlsCertificates, tls, ReloadedTls::run);
    }

    /// Reads the keys of JSON Web Tokens again and again, if there are any.
    #[cfg(feature = "http")]
    pub(super) fn start_access(&self, access: &Access) {
        if let Some(jwt) = access.jwt() {
            self.intake.spawn(Task::JwtKeys, Arc::clone(jwt), Jwt::run);
        }
    }

    /// Starts the periodic tasks, the event feed and the dead-letter jobs.
    pub(super) fn start_background(&self, app: &Arc<App>, config: &Config) {
        let (group, services) = (&self.intake, app.services());
        group.spawn(
            Task::Reconciler,
            Arc::new(Reconciler::new(services.clone())),
            |reconciler, stop| async move { reconciler.run(stop).await },
        );
        group.spawn(
            Task::UnroutedEvents,
            Arc::new(UnroutedRouter::new(services.clone(), config.events.expiry_ms)),
            |router, stop| async move { router.run(stop).await },
        );
        group.spawn(
            Task::Retention,
            Arc::new(Retention::new(services.clone(), config.retention)),
            |retention, stop| async move { retention.run(stop).await },
        );
        group.spawn(
            Task::ControlSync,
            Arc::new(ControlSync::new(services.clone())),
            |controls, stop| async move { controls.run(stop).await },
        );
        group.spawn(
            Task::BindingSync,
            Arc::new(BindingSync::new(services.clone())),
            |bindings, stop| async move { bindings.run(stop).await },
        );
        group.spawn(
            Task::HostReports,
            Arc::new(HostSync::new(Arc::clone(app), config.shared_settings())),
            HostSync::run,
        );
        group.spawn(
            Task::IdleInstances,
            Arc::new(IdleInstances::new(Arc::clone(&services.pipeline))),
            |instances, stop| async move { instances.run(stop).await },
        );
        #[cfg(feature = "metrics")]
        group.spawn(
            Task::StoreFigures,
            Arc::new(StoreCounter::new(services.clone())),
            |counter, stop| async move { counter.run(stop).await },
        );
        group.spawn(Task::EventFeed, Arc::clone(app.event_feed()), EventFeed::run);
        if config.auth.mode == AuthMode::Tokens {
            group.spawn(Task::ApiKeys, Arc::clone(app.keys()), Keys::run);
        }
        group.spawn(Task::DeadLetterJobs, Arc::clone(app.dead_letters()), |jobs, stop| {
            jobs.run(stop)
        });
    }

    /// Waits for `done`; the error is the task that failed too often meanwhile.
    pub(super) async fn or_failure(&self, done: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::select! {
            biased;
            failure = self.supervisor.failed() => Err(failure.into()),
            () = done => Ok(()),
        }
    }

    /// Waits until a task has failed too often.
    pub(super) async fn failed(&self) -> TaskFailure {
        self.supervisor.failed().await
    }

    /// The task that has failed too often, if any.
    pub(super) fn failure(&self) -> Option<TaskFailure> {
        self.supervisor.failure()
    }

    /// Stops what brings new work, and waits until it has finished what it was doing.
    pub(super) async fn stop_intake(&self) {
        self.intake.stop().await;
    }

    /// The same for the relay, which sends what the intake committed last.
    pub(super) async fn stop_relay(&self) {
        self.relay.stop().await;
    }

    /// Asks every task but those of the store and the broker to stop.
    pub(super) fn begin_stop(&self) {
        self.intake.begin_stop();
        self.relay.begin_stop();
    }

    /// Lets the tasks of the store and the broker end, which closing both waits for.
    pub(super) fn begin_close(&self) {
        self.ports.begin_stop();
    }

    /// Drops every task that is still running, and waits until it is gone. One that blocks its
    /// thread, such as a native stage that never awaits, is not waited for.
    pub(super) async fn end(self) {
        let Self { supervisor, intake, relay, ports } = self;
        drop(supervisor);
        let ended = async { tokio::join!(intake.stop(), relay.stop(), ports.stop()) };
        if tokio::time::timeout(END_MAX, ended).await.is_err() {
            tracing::warn!("a task blocks its thread, and outlives the host");
        }
    }
}
