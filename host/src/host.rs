//! The host: builds everything a configuration asks for, runs it, and stops it in two phases.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use postrider::{config::Config, host::Host};
//! let host = Host::builder(Config::load(None)?).build().await?;
//! host.run_until(async { _ = tokio::signal::ctrl_c().await }).await
//! # }
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, SubmitError, Submitted};
use crate::background::binding_sync::BindingSync;
use crate::background::control_sync::ControlSync;
use crate::background::reconciler::Reconciler;
use crate::background::retention::Retention;
use crate::broker::Broker;
use crate::broker::embedded::Embedded;
use crate::broker::rabbit::{Rabbit, RabbitOptions};
use crate::config::{BrokerUrl, Config, StoreUrl};
use crate::domain::clock::{Clock, SystemClock};
use crate::http;
use crate::pipeline::Pipeline;
use crate::plugins::supervisor::{Files, PluginPlaces, Supervisor};
use crate::plugins::watcher::PluginFolder;
use crate::relay::Relay;
use crate::runtime::Runtime;
use crate::runtime::provenance::PluginArchive;
use crate::services::{Observer, Services};
use crate::stage::handler::{Native, NativeStage, StageHandler};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Settlement, Store};

/// Plugin changes that wait for the supervisor.
const CHANGES_MAX: usize = 64;

/// Collects what a host is made of.
pub struct HostBuilder {
    config: Config,
    clock: Arc<dyn Clock>,
    stages: Vec<Arc<dyn StageHandler>>,
    listener: Option<TcpListener>,
    observer: Option<Observer>,
}

impl HostBuilder {
    /// Adds a stage that is a Rust value, under the name it describes.
    #[must_use]
    pub fn stage(mut self, stage: impl NativeStage) -> Self {
        self.stages.push(Arc::new(Native::new(stage)));
        self
    }

    /// Replaces the operating system's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Tells `observer` of every delivery that this host settled, after its commit. It is called
    /// where stages run: it must be quick.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Settlement) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Serves on a listener that is bound already, instead of the configured address.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Opens the store, loads every plugin in the folder, and binds the address. Nothing is
    /// consumed yet.
    pub async fn build(self) -> anyhow::Result<Host> {
        let Self { config, clock, stages, listener, observer } = self;
        let host_name = host_name();
        let identity = Identity { config: &config, name: &host_name, clock: &clock };
        let broker = open_broker(&identity)?;
        let store = open_store(&identity, broker.has_outside_consumers()).await?;
        let runtime = Runtime::new(config.runtime.clone())
            .context("the WebAssembly engine could not be started")?;
        let pipeline = Pipeline::new(&config);
        let (relay, relay_handle) = Relay::new(
            Arc::clone(&store),
            Arc::clone(&broker),
            Arc::clone(&clock),
            Arc::clone(&pipeline),
        );
        let (changed, changes) = mpsc::channel(CHANGES_MAX);
        let services = Services {
            plugins: changed.downgrade(),
            store,
            broker,
            relay: relay_handle,
            pipeline,
            clock,
            host: host_name.as_str().into(),
            observer,
        };

        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind(&config.http.listen)
                .await
                .with_context(|| format!("http.listen: cannot bind {}", config.http.listen))?,
        };
        let files = Arc::new(Files::default());
        let places = PluginPlaces {
            dir: config.plugins.dir.clone(),
            kept: PluginArchive::new(config.plugins.archive_dir.clone()),
        };
        let mut supervisor = Supervisor::new(
            services.clone(),
            Arc::clone(&files),
            host_name,
            places.clone(),
            changes,
        );
        for stage in stages {
            let name = stage.description().name.clone();
            supervisor.install(&name, stage, None).await.map_err(anyhow::Error::msg)?;
        }
        let folder = PluginFolder {
            dir: config.plugins.dir.clone(),
            debounce_ms: config.plugins.debounce_ms,
            provenance: config
                .plugins
                .provenance()
                .map_err(|problems| anyhow::anyhow!(problems.join("; ")))?,
            kept: places.kept.clone(),
        };
        let watching = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(folder.run(runtime, changed, watching.clone()));
        supervisor.finish_first_scan().await;
        for warning in services.pipeline.topology().warnings {
            tracing::warn!("{warning}");
        }
        // A stage that is held must not run before the operators' word is known.
        ControlSync::new(services.clone())
            .tick()
            .await
            .context("the stages' controls could not be read")?;
        let app = Arc::new(App::new(&config, services, files, places));
        Ok(Host { config, app, relay, supervisor, listener, watching, tasks })
    }
}

/// Tells this host from all others, also from others in this process: leases are held in its name.
fn host_name() -> String {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let machine = std::env::var("HOSTNAME").unwrap_or_else(|_| "host".into());
    match BUILT.fetch_add(1, Ordering::Relaxed) {
        0 => format!("{machine}-{}", std::process::id()),
        before => format!("{machine}-{}-{}", std::process::id(), before + 1),
    }
}

/// What the broker and the store are told of the host.
struct Identity<'a> {
    config: &'a Config,
    name: &'a str,
    clock: &'a Arc<dyn Clock>,
}

fn open_broker(host: &Identity<'_>) -> anyhow::Result<Arc<dyn Broker>> {
    match BrokerUrl::parse(&host.config.broker.url).context("broker.url: unknown")? {
        BrokerUrl::Embedded => {
            Ok(Embedded::new(host.config.broker.queue_capacity, Arc::clone(host.clock)))
        }
        BrokerUrl::Amqp(url) => {
            let options = RabbitOptions {
                url: url.to_owned(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                expiry_ms: host.config.orders.expiry_ms,
            };
            let (rabbit, links) =
                Rabbit::new(options).map_err(anyhow::Error::msg).context("broker.url")?;
            tokio::spawn(async move { links.publishing.run().await });
            tokio::spawn(async move { links.consuming.run().await });
            Ok(rabbit)
        }
    }
}

async fn open_store(host: &Identity<'_>, publish_all: bool) -> anyhow::Result<Arc<dyn Store>> {
    let store = &host.config.store;
    let status = Arc::new(host.config.orders.status.clone());
    match StoreUrl::parse(&store.url).context("store.url: unknown")? {
        StoreUrl::Sqlite(path) => {
            let options = SqliteOptions {
                path: path.into(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                status,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publish_all,
            };
            let (store, writer) = SqliteStore::open(options)
                .await
                .context("store.url: the store could not be opened")?;
            tokio::spawn(async move { writer.run().await });
            Ok(store)
        }
        StoreUrl::Postgres(url) => {
            let options = PostgresOptions {
                url: url.to_owned(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                host_time: false,
                status,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publish_all,
                connections: store.connections,
                timeout_ms: store.timeout_ms,
                migrate: store.migrate,
            };
            let (store, writer) = PostgresStore::open(options)
                .await
                .context("store.url: the store could not be opened")?;
            tokio::spawn(async move { writer.run().await });
            Ok(store)
        }
    }
}

/// A built host.
pub struct Host {
    config: Config,
    app: Arc<App>,
    relay: Relay,
    supervisor: Supervisor,
    listener: TcpListener,
    watching: CancellationToken,
    tasks: TaskTracker,
}

impl Host {
    /// Begins a host.
    pub fn builder(config: Config) -> HostBuilder {
        HostBuilder {
            config,
            clock: Arc::new(SystemClock),
            stages: Vec::new(),
            listener: None,
            observer: None,
        }
    }

    /// Where the API listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the API does, for callers in this process; also usable while the host runs.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Accepts an order as `POST /orders` does: when it returns, the order is durable.
    ///
    /// # Errors
    /// See [`SubmitError`]: an invalid order, a conflict with a stored one, a reused idempotency
    /// key, or a store that failed.
    pub async fn submit(&self, order: Value) -> Result<Submitted, SubmitError> {
        self.app.submit(order).await
    }

    /// Runs until `shutdown` resolves, then stops: no new work first, then hard when the grace is
    /// over.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let Self { config, app, relay, supervisor, listener, watching, tasks } = self;
        let services = app.services().clone();
        let reconciler = Reconciler::new(services.clone());
        let (intake, work) = (CancellationToken::new(), CancellationToken::new());
        tasks.spawn(reconciler.run(intake.clone()));
        tasks.spawn(Arc::clone(app.event_feed()).run(intake.clone()));
        tasks.spawn(Retention::new(services.clone(), config.retention).run(intake.clone()));
        tasks.spawn(ControlSync::new(services.clone()).run(intake.clone()));
        tasks.spawn(BindingSync::new(services.clone()).run(intake.clone()));
        tasks.spawn(Arc::clone(app.dead_letters()).run(intake.clone()));
        tasks.spawn(supervisor.run(intake.clone()));
        // The relay stops last, so that what the others still commit is sent.
        let relaying = TaskTracker::new();
        relaying.spawn(relay.run(work.clone()));
        relaying.close();
        let address = listener.local_addr()?;
        let router = http::router(Arc::clone(&app), &config.http);
        let mut serving = tokio::spawn(http::serve(listener, router, intake.clone()));
        tracing::info!(%address, stages = %services.pipeline.consuming().join(","), "serving");

        let failed = tokio::select! {
            () = shutdown => None,
            ended = &mut serving => Some(ended),
        };
        tracing::info!("stopping: finishing work in flight");
        app.stopping();
        intake.cancel();
        watching.cancel();
        tasks.close();
        let grace = Duration::from_millis(config.shutdown.grace_ms);
        let drained = tokio::time::timeout(grace, async {
            if failed.is_none() {
                let _ = (&mut serving).await;
            }
            tasks.wait().await;
            work.cancel();
            relaying.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!(
                grace_ms = config.shutdown.grace_ms,
                "the grace is over; what is left is run again after the next start"
            );
            work.cancel();
        }
        services.broker.close().await;
        services.store.close().await;
        match failed {
            Some(ended) => {
                ended.context("the API server panicked")?.context("the API server ended")
            }
            None => Ok(()),
        }
    }
}
