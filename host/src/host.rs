//! The host: builds everything that a configuration asks for, runs it, and stops it in two phases.
//!
//! Guarantee: whatever it starts, from the first task of [`HostBuilder::build`] on, ends when the
//! build fails, the built host is dropped, or the future of [`Host::run_until`] is dropped.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use postrider::{Config, Host};
//! let host = Host::builder(Config::load(None)?).build().await?;
//! host.run_until(async { _ = tokio::signal::ctrl_c().await }).await
//! # }
//! ```

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::mpsc;

#[cfg(feature = "http")]
use self::api::Api;
use self::open::{HostIdentity, open_broker, open_store};
use self::tasks::HostTasks;
use crate::app::{App, SubmitError, Submitted};
use crate::background::control_sync::ControlSync;
use crate::background::faults::TaskFaults;
use crate::config::{Config, StoreUrl};
use crate::domain::clock::{Clock, SteadyClock};
use crate::pipeline::{Pipeline, TopologyStage};
use crate::plugins::supervisor::PluginSupervisor;
use crate::plugins::{PluginFiles, PluginPlaces};
use crate::relay::Relay;
use crate::runtime::provenance::PluginArchive;
use crate::services::{Observer, Services};
use crate::stage::handler::{Native, NativeStage, StageHandler};
use crate::store::Settlement;

#[cfg(feature = "http")]
mod api;
#[cfg(feature = "wasm")]
mod folder;
mod open;
mod tasks;

/// Plugin changes that wait for the plugin supervisor.
const CHANGES_MAX: usize = 64;

/// Collects what a host is made of.
///
/// ```no_run
/// use postrider::{Config, Host};
///
/// # async fn example() -> anyhow::Result<()> {
/// let host = Host::builder(Config::load(None)?)
///     .observe(|settled| println!("{} settled {}", settled.delivery.stage, settled.delivery.event.id))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct HostBuilder {
    config: Config,
    clock: Option<Arc<dyn Clock>>,
    stages: Vec<Arc<dyn StageHandler>>,
    #[cfg(feature = "http")]
    listener: Option<tokio::net::TcpListener>,
    observer: Option<Observer>,
    faults: TaskFaults,
}

impl HostBuilder {
    /// Adds a stage that is a Rust value, under the name it describes.
    #[must_use]
    pub fn stage(mut self, stage: impl NativeStage) -> Self {
        self.stages.push(Arc::new(Native::new(stage)));
        self
    }

    /// Replaces the host's clock, which follows that of Postgres, or else the operating system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Calls `observer` for every delivery that this host has settled, after its commit. It runs on
    /// the path of each message, so it must be quick.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Settlement) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Serves on a listener that is bound already, instead of the configured address.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn listener(mut self, listener: tokio::net::TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Makes background tasks panic on request; for tests only.
    #[doc(hidden)]
    #[must_use]
    pub fn task_faults(mut self, faults: TaskFaults) -> Self {
        self.faults = faults;
        self
    }

    /// Opens the store, loads every plugin in the folder, and binds the address. Nothing is
    /// consumed yet.
    pub async fn build(self) -> anyhow::Result<Host> {
        let Self { config, clock, stages, observer, faults, .. } = self;
        let tasks = HostTasks::new(faults);
        let name = host_name();
        let (clock, steady) = host_clock(&config, clock);
        let kinds = config.kinds()?;
        let identity = HostIdentity {
            config: &config,
            kinds: &kinds,
            name: &name,
            clock: &clock,
            steady: steady.as_ref(),
        };
        let broker = open_broker(&identity, &tasks)?;
        let store = open_store(&identity, &tasks, broker.has_outside_consumers()).await?;
        let pipeline = Pipeline::new(&config, Arc::clone(&kinds));
        let (relay, relay_handle) =
            Relay::new(Arc::clone(&store), Arc::clone(&broker), Arc::clone(&pipeline));
        let (changed, changes) = mpsc::channel(CHANGES_MAX);
        let services = Services {
            plugins: changed.downgrade(),
            store,
            broker,
            relay: relay_handle,
            pipeline,
            unrouted: Arc::default(),
            clock,
            host: name.as_str().into(),
            observer,
        };
        #[cfg(feature = "http")]
        let api = Api::bind(self.listener, &config).await?;
        let archive = PluginArchive::new(config.plugins.archive_dir.clone());
        let places = PluginPlaces { dir: config.plugins.dir.clone(), archive };
        let files = Arc::new(PluginFiles::default());
        let plugins = PluginSupervisor::new(
            services.clone(),
            Arc::clone(&files),
            places.clone(),
            tasks.workers(),
            changes,
        );
        for stage in stages {
            let name = stage.description().name.clone();
            plugins.install(&name, stage, None).await.map_err(anyhow::Error::msg)?;
        }
        #[cfg(feature = "wasm")]
        folder::watch(&config, &places, Arc::clone(&files), changed, &tasks)?;
        #[cfg(not(feature = "wasm"))]
        tasks.start_without_plugins(changed);
        tasks.or_failure(plugins.finish_first_scan()).await?;
        warn(&config, &services.pipeline);
        // A stage that operators hold must not run before its control is known.
        ControlSync::new(services.clone())
            .tick()
            .await
            .context("the stage controls could not be read")?;
        let app = Arc::new(App::new(&config, services, files, places, tasks.health()));
        Ok(Host {
            config,
            app,
            relay,
            plugins,
            #[cfg(feature = "http")]
            api,
            tasks,
        })
    }
}

/// The given clock, or one that follows the store's.
fn host_clock(
    config: &Config,
    given: Option<Arc<dyn Clock>>,
) -> (Arc<dyn Clock>, Option<Arc<SteadyClock>>) {
    if let Some(given) = given {
        return (given, None);
    }
    let steady = Arc::new(match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Postgres(_)) => SteadyClock::following_store(),
        _ => SteadyClock::following_system(),
    });
    (Arc::clone(&steady) as _, Some(steady))
}

/// Logs what is doubtful about a configuration and its pipeline. The warnings about single stages
/// were logged when they were installed.
fn warn(config: &Config, pipeline: &Pipeline) {
    for warning in config.warnings.iter().chain(&config.missing_files()) {
        tracing::warn!("{warning}");
    }
    let topology = pipeline.topology();
    let of_stages: Vec<String> = topology.stages.iter().flat_map(TopologyStage::warnings).collect();
    for warning in topology.warnings.iter().filter(|warning| !of_stages.contains(warning)) {
        tracing::warn!("{warning}");
    }
}

/// A name that no other host has, not even one in this process: leases are held in its name.
fn host_name() -> String {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let machine = std::env::var("HOSTNAME").unwrap_or_else(|_| "host".into());
    match BUILT.fetch_add(1, Ordering::Relaxed) {
        0 => format!("{machine}-{}", std::process::id()),
        before => format!("{machine}-{}-{}", std::process::id(), before + 1),
    }
}

/// A built host. Subjects may be submitted at once; stages consume them while it runs.
///
/// ```no_run
/// # async fn example(host: postrider::Host) -> anyhow::Result<()> {
/// let app = host.app();
/// let running = tokio::spawn(host.run_until(async { _ = tokio::signal::ctrl_c().await }));
/// println!("ready: {}", app.readiness().await.ready);
/// running.await?
/// # }
/// ```
pub struct Host {
    config: Config,
    app: Arc<App>,
    relay: Relay,
    plugins: PluginSupervisor,
    #[cfg(feature = "http")]
    api: Api,
    tasks: HostTasks,
}

impl Host {
    /// Starts building a host.
    pub fn builder(config: Config) -> HostBuilder {
        HostBuilder {
            config,
            clock: None,
            stages: Vec::new(),
            #[cfg(feature = "http")]
            listener: None,
            observer: None,
            faults: TaskFaults::default(),
        }
    }

    /// The address that the API listens on.
    #[cfg(feature = "http")]
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.api.address()
    }

    /// What the API does, for callers in this process; also usable while the host runs.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Accepts a subject as a `POST` to the path of its kind does: when it returns, the subject is
    /// durable.
    ///
    /// # Errors
    /// See [`SubmitError`]: an unknown kind, an invalid body, a conflict with a stored subject, a reused
    /// idempotency key, or a store that failed.
    pub async fn submit(&self, kind: &str, body: Value) -> Result<Submitted, SubmitError> {
        self.app.submit(kind, body).await
    }

    /// Runs until `shutdown` resolves or a background task has failed too often, then stops in two
    /// phases: no new work, then, when the grace period is over, whatever is still running. Dropping
    /// the future stops everything without a grace period.
    ///
    /// # Errors
    /// Which background task failed, and how.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let Self { config, app, relay, plugins, tasks, .. } = self;
        let _close_streams = app.event_feed().close_on_drop();
        tasks.start_background(&app, &config);
        tasks.start_plugins(plugins);
        tasks.start_relay(relay);
        #[cfg(feature = "http")]
        self.api.start(&app, &config, &tasks)?;
        let services = app.services();
        tracing::info!(stages = %services.pipeline.consuming().join(","), "running");

        let ended = tasks.or_failure(shutdown).await;
        tracing::info!("stopping: finishing work in flight");
        app.stopping();
        let grace_ms = config.shutdown.grace_ms;
        if !tasks.drain(Duration::from_millis(grace_ms)).await {
            tracing::warn!(grace_ms, "grace period over; unfinished work runs again after restart");
        }
        tasks.begin_close();
        services.broker.close().await;
        services.store.close().await;
        ended
    }
}
