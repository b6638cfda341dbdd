//! Collects what a host is made of, and builds it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use opentelemetry_sdk::trace::{ShouldSample, SpanProcessor};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{Instrument as _, Span};

use super::Host;
#[cfg(feature = "http")]
use super::api::{Api, Listen};
use super::error::BuildError;
use super::namespace::Namespace;
use super::open::{HostIdentity, open_broker, open_store};
use super::own_threads::OwnThreads;
use super::plugins::PluginLoading;
use super::tasks::HostTasks;
#[cfg(feature = "metrics")]
use crate::app::HostMetrics;
use crate::app::{App, OwnPlugins};
use crate::background::control_sync::ControlSync;
use crate::background::faults::TaskFaults;
use crate::config::{AuthMode, Config, ConfigError, StoreUrl};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::spans::Spans;
#[cfg(feature = "http")]
use crate::http::{Access, Authenticator};
use crate::pipeline::plugin_change::PluginChange;
use crate::pipeline::turns::Turnstile;
use crate::pipeline::{Pipeline, TopologyStage};
use crate::plugins::supervisor::PluginSupervisor;
use crate::plugins::{Candidates, PluginFiles, PluginPlaces};
use crate::relay::Relay;
use crate::runtime::provenance::PluginArchive;
use crate::services::{Observer, SPANS, Services};
use crate::stage::handler::{Native, NativeStage, StageHandler};
use crate::store::{Listeners, Publishing, Settlement};

/// Why a store is not used without keys.
const ENCRYPTED: &str =
    "what it stores is encrypted: set encryption.key_file or encryption.key_command";
/// Plugin changes that wait for the plugin supervisor.
const CHANGES_MAX: usize = 64;

/// Collects what a host is made of.
///
/// ```no_run
/// use postrider::{Config, Host};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::builder()
///     .config(Config::load(None)?)
///     .observe(|settled| println!("{} settled {}", settled.delivery.stage, settled.delivery.event.id))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct HostBuilder {
    config: Config,
    clock: Option<Arc<dyn Clock>>,
    #[cfg(feature = "postgres")]
    pool: Option<sqlx::PgPool>,
    stages: Vec<Arc<dyn StageHandler>>,
    #[cfg(feature = "wasm")]
    plugins: Vec<(String, Bytes)>,
    #[cfg(feature = "wasm")]
    plugin_dir: Option<PathBuf>,
    #[cfg(feature = "http")]
    listen: Listen,
    #[cfg(feature = "metrics")]
    metrics: HostMetrics,
    observer: Option<Observer>,
    spans: Spans,
    #[cfg(feature = "http")]
    authenticator: Option<Arc<dyn Authenticator>>,
    faults: TaskFaults,
    turnstile: Turnstile,
    /// What further namespaces are made of, beside their configuration.
    namespaces: BTreeMap<String, HostBuilder>,
}

impl HostBuilder {
    /// Sets the configuration. [`build`](Self::build) validates it, wherever it comes from: the
    /// problems are those that a configuration file would have.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Adds stages, plugins or an observer to a further namespace of the configuration,
    /// `[namespaces.<name>]`. The address, the metrics and the configuration are those of the host; its
    /// clock and its pool are, too, unless `adapt` sets others.
    ///
    /// ```no_run
    /// use postrider::{Config, Host};
    /// # use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
    /// # struct Approve;
    /// # #[async_trait::async_trait]
    /// # impl NativeStage for Approve {
    /// #     fn describe(&self) -> Description {
    /// #         Description::new("approve", "1.0.0", "Approves").consumes(["order.created"])
    /// #     }
    /// #     async fn handle(
    /// #         &self,
    /// #         _: &mut NativeContext,
    /// #         _: &Event,
    /// #     ) -> Result<Vec<Emitted>, NativeError> {
    /// #         Ok(vec![])
    /// #     }
    /// # }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut config = Config::load(None)?;
    /// config.namespaces.insert("shop".to_owned(), config.beside("shop"));
    /// let host = Host::builder()
    ///     .config(config)
    ///     .namespace("shop", |shop| shop.stage(Approve))
    ///     .build()
    ///     .await?;
    /// let shop = host.namespace("shop").ok_or("no such namespace")?;
    /// let _ = shop.submit("order", serde_json::json!({ "order_id": "1", "items": ["Book"] })).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn namespace(mut self, name: impl Into<String>, adapt: impl FnOnce(Self) -> Self) -> Self {
        let name = name.into();
        let builder = self.namespaces.remove(&name).unwrap_or_default();
        self.namespaces.insert(name, adapt(builder));
        self
    }

    /// Adds a stage that is a Rust value, under the name it describes.
    pub fn stage(mut self, stage: impl NativeStage) -> Self {
        self.stages.push(Arc::new(Native::new(stage)));
        self
    }

    /// Adds a plugin that is compiled into the program, or comes from elsewhere than a file. It
    /// serves the stage `name`, with the settings, limits and grants of that stage. The policy of
    /// the plugins folder does not apply to it, and it cannot be replaced while the host runs.
    ///
    /// ```no_run
    /// # async fn example(wasm: Vec<u8>) -> Result<(), postrider::BuildError> {
    /// let host = postrider::Host::builder().plugin_bytes("audit", wasm).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "wasm")]
    pub fn plugin_bytes(mut self, name: impl Into<String>, wasm: impl Into<Bytes>) -> Self {
        self.plugins.push((name.into(), wasm.into()));
        self
    }

    /// Serves every `*.wasm` in a folder, and follows its changes; in place of `plugins.dir` of the
    /// configuration.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), postrider::BuildError> {
    /// let host = postrider::Host::builder().plugin_dir("stages").build().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "wasm")]
    pub fn plugin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.plugin_dir = Some(dir.into());
        self
    }

    /// Keeps the host's data in the Postgres database of this pool, whatever `store.url` says, in
    /// the schema of the namespace. The host opens one connection for its writer, with the pool's
    /// options; all others are the pool's, and return to it with the settings that they had. It
    /// needs two at least, beside those that the program itself holds. The pool stays open when the
    /// host stops. A pooler between the pool and Postgres must keep sessions.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = sqlx::PgPool::connect("postgres://localhost/shop").await?;
    /// let host = postrider::Host::builder().pool(pool.clone()).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "postgres")]
    pub fn pool(mut self, pool: sqlx::PgPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Replaces the host's clock, which follows that of Postgres, or else the operating system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Calls `observer` for every delivery that this host has settled, after its commit. It runs on
    /// the path of each message, so it must be quick.
    pub fn observe(mut self, observer: impl Fn(&Settlement) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Passes spans to a processor of OpenTelemetry's SDK: one for each request to the API, each message that
    /// is sent, each attempt at a delivery and each HTTP call of a plugin, with the ids that events and
    /// calls carry. They are passed on after the commit, on the path of each message, so the processor
    /// must be quick; the SDK's `BatchSpanProcessor` is. `sampler` decides which traces are recorded;
    /// wrap it in `Sampler::ParentBased` to follow callers. Give the processor its resource before,
    /// and shut it down after the host has stopped. Applies to all namespaces.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SpanExporter};
    /// # async fn example(
    /// #     exporter: impl SpanExporter + 'static,
    /// # ) -> Result<(), postrider::BuildError> {
    /// let processor = Arc::new(BatchSpanProcessor::builder(exporter).build());
    /// let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.1)));
    /// let host = postrider::Host::builder().spans(processor, sampler).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn spans(
        mut self,
        processor: Arc<dyn SpanProcessor>,
        sampler: impl Into<Box<dyn ShouldSample>>,
    ) -> Self {
        self.spans = Spans::new(processor, sampler.into());
        self
    }

    /// Collects the host's metrics in a registry of the program, whether or not the API is served.
    /// They are those of `GET /metrics`; they are absent before the host is built and after it is
    /// dropped. Programs with several hosts give each a label.
    ///
    /// ```no_run
    /// use prometheus_client::registry::Registry;
    /// # async fn example() -> Result<(), postrider::BuildError> {
    /// let mut registry = Registry::default();
    /// let orders = registry.sub_registry_with_label(("host".into(), "orders".into()));
    /// let host = postrider::Host::builder().metrics(orders).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "metrics")]
    pub fn metrics(self, registry: &mut prometheus_client::registry::Registry) -> Self {
        registry.register_collector(Box::new(self.metrics.clone()));
        self
    }

    /// Serves the API on the configured address, `http.listen`. Without this or
    /// [`listener`](Self::listener) the host binds no address; see also
    /// [`HostHandle::router`](crate::HostHandle::router).
    #[cfg(feature = "http")]
    pub fn listen(mut self) -> Self {
        self.listen = Listen::Configured;
        self
    }

    /// Serves the API on a listener that is bound already.
    #[cfg(feature = "http")]
    pub fn listener(mut self, listener: tokio::net::TcpListener) -> Self {
        self.listen = Listen::Bound(listener);
        self
    }

    /// Authenticates the requests to the API, of all namespaces, in the program's own way, beside API keys
    /// and JSON Web Tokens. It sets `auth.mode` to `tokens`: a request without valid credentials is
    /// refused.
    #[cfg(feature = "http")]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Makes background tasks panic on request; for tests only.
    #[doc(hidden)]
    pub fn task_faults(mut self, faults: TaskFaults) -> Self {
        self.faults = faults;
        self
    }

    /// Validates the configuration, opens the store, loads every plugin, and binds the address.
    /// Nothing is consumed yet. A host with one namespace runs where it is built. Of several, each has
    /// threads of its own, and only the server runs where the host is built.
    ///
    /// # Errors
    /// See [`BuildError`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime with its time and I/O drivers enabled.
    pub async fn build(self) -> Result<Host, BuildError> {
        // The future is large: programs that await it keep theirs small.
        Box::pin(self.build_all()).await
    }

    async fn build_all(mut self) -> Result<Host, BuildError> {
        let mut config = self.finish_config()?;
        let mut further: Vec<_> = config
            .take_namespaces()
            .into_iter()
            .map(|(name, config)| (self.namespaces.remove(&name).unwrap_or_default(), config))
            .collect();
        let mut turnstiles = Turnstile::of_process(further.len() + 1).into_iter();
        self.turnstile = turnstiles.next().unwrap_or_default();
        for ((builder, _), turnstile) in further.iter_mut().zip(turnstiles) {
            builder.turnstile = turnstile;
        }
        #[cfg(feature = "http")]
        let mut api = Api::bind(std::mem::take(&mut self.listen), &config).await?;
        #[cfg(feature = "http")]
        api.check(std::iter::once(&config).chain(further.iter().map(|(_, config)| config)))?;
        #[cfg(feature = "metrics")]
        let metrics = self.metrics.clone();
        let (first, further) = if further.is_empty() {
            (Box::pin(self.build_one(config)).await?, Vec::new())
        } else {
            let further = further.into_iter().map(|(builder, config)| builder.build_apart(config));
            tokio::try_join!(self.build_apart(config), futures::future::try_join_all(further))?
        };
        #[cfg(feature = "metrics")]
        metrics.attach(std::iter::once(&first).chain(&further).map(|one| &one.app));
        #[cfg(feature = "http")]
        api.serve(std::iter::once(&first).chain(&further));
        Ok(Host {
            first,
            further,
            #[cfg(feature = "http")]
            api,
        })
    }

    /// Builds one of several namespaces, on threads of its own.
    async fn build_apart(self, config: Config) -> Result<Namespace, BuildError> {
        let name = config.namespace.clone();
        let failed =
            |source| BuildError::Namespace { name: name.clone(), source: Box::new(source) };
        let threads = OwnThreads::start(&name, own_workers());
        let threads = threads.map_err(|error| failed(BuildError::Threads(error)))?;
        let built = threads.run(move || self.build_one(config)).await;
        Ok(Namespace { threads: Some(threads), ..built.map_err(failed)? })
    }

    /// Builds one namespace where it is called.
    async fn build_one(self, config: Config) -> Result<Namespace, BuildError> {
        let name = host_name();
        let span = tracing::info_span!(
            target: SPANS,
            "postrider",
            host = %name,
            namespace = %config.namespace
        );
        Box::pin(self.build_named(config, name).instrument(span)).await
    }

    async fn build_named(mut self, config: Config, name: String) -> Result<Namespace, BuildError> {
        let tasks = HostTasks::new(std::mem::take(&mut self.faults));
        let (changed, changes) = mpsc::channel(CHANGES_MAX);
        let (services, relay) = self.open(&config, &name, &tasks, &changed).await?;
        let archive = PluginArchive::new(config.plugins.archive_dir.clone());
        let places = PluginPlaces { dir: config.plugins.dir.clone(), archive };
        let files = Arc::new(PluginFiles::default());
        let (shared, watched) = (services.clone(), Arc::clone(&files));
        let workers = tasks.workers();
        let plugins = PluginSupervisor::new(shared, watched, places.clone(), workers, changes);
        install(&plugins, self.stages).await?;
        let provenance = config.plugins.provenance().map_err(ConfigError)?;
        let candidates = Candidates::new(config.runtime.clone(), provenance);
        let loading = PluginLoading {
            supervisor: &plugins,
            changes: changed,
            tasks: &tasks,
            candidates: &candidates,
        };
        #[cfg(feature = "wasm")]
        loading.load(&config, self.plugins, &places, &files).await?;
        #[cfg(not(feature = "wasm"))]
        loading.finish_without_folder().await?;
        warn(&config, &services.pipeline);
        // A stage that operators hold must not run before its control is known.
        let controls = ControlSync::new(services.clone());
        controls.tick().await.map_err(|error| BuildError::Store(error.into()))?;
        let own_plugins = OwnPlugins { files, places, candidates };
        let app = Arc::new(App::new(&config, services, own_plugins, tasks.health()));
        #[cfg(feature = "http")]
        let access = {
            let access = Access::new(&config, self.authenticator.take());
            let access = access.map_err(|problem| ConfigError(vec![problem]))?;
            if access.is_enforced() {
                let read = app.keys().refresh().await;
                read.map_err(|error| BuildError::Store(error.into()))?;
            }
            Arc::new(access)
        };
        Ok(Namespace {
            #[cfg(feature = "http")]
            access,
            config,
            app,
            relay,
            plugins,
            tasks,
            span: Span::current(),
            runtime: Handle::current(),
            threads: None,
        })
    }

    /// The configuration with what the builders override, checked.
    fn finish_config(&mut self) -> Result<Config, BuildError> {
        let mut config = std::mem::take(&mut self.config);
        let unknown = self.namespaces.keys().filter(|name| !config.namespaces.contains_key(*name));
        let unknown: Vec<String> = unknown
            .map(|name| {
                format!("namespaces.{name}: the configuration has no such namespace: add it")
            })
            .collect();
        if !unknown.is_empty() {
            return Err(ConfigError(unknown).into());
        }
        for (name, config) in &mut config.namespaces {
            let builder = self.namespaces.entry(name.clone()).or_default();
            builder.clock = builder.clock.take().or_else(|| self.clock.clone());
            if !builder.spans.are_recorded() {
                builder.spans = self.spans.clone();
            }
            #[cfg(feature = "http")]
            {
                builder.authenticator =
                    builder.authenticator.take().or_else(|| self.authenticator.clone());
            }
            #[cfg(feature = "postgres")]
            {
                builder.pool = builder.pool.take().or_else(|| self.pool.clone());
            }
            builder.override_config(config);
        }
        self.override_config(&mut config);
        config.finish()?;
        Ok(config)
    }

    #[cfg_attr(
        not(any(feature = "http", feature = "postgres", feature = "wasm")),
        expect(clippy::unused_self, reason = "without them the builder overrides nothing")
    )]
    fn override_config(&mut self, config: &mut Config) {
        #[cfg(feature = "postgres")]
        if self.pool.is_some() {
            // What depends on the kind of the store is that of Postgres.
            "postgres://localhost".clone_into(&mut config.store.url);
        }
        #[cfg(feature = "http")]
        if self.authenticator.is_some() {
            config.auth.mode = AuthMode::Tokens;
        }
        #[cfg(feature = "wasm")]
        if let Some(dir) = self.plugin_dir.take() {
            config.plugins.dir = dir;
        }
    }

    /// Opens the store and the broker, and connects them.
    async fn open(
        &mut self,
        config: &Config,
        name: &str,
        tasks: &HostTasks,
        changed: &mpsc::Sender<PluginChange>,
    ) -> Result<(Services, Relay), BuildError> {
        let (clock, steady) = host_clock(config, self.clock.take());
        let kinds = config.kinds()?;
        let encryption = config.encryption.encryption();
        let identity = HostIdentity {
            config,
            kinds: &kinds,
            name,
            clock: &clock,
            encryption: &encryption,
            steady: steady.as_ref(),
            #[cfg(feature = "postgres")]
            pool: self.pool.as_ref(),
        };
        let from_outbox = config.broker.is_shared();
        // No other program receives events from a broker in memory.
        let none: &[String] = &[];
        let subscriptions = config.broker.subscriptions.as_deref();
        let listeners = Listeners::of(if from_outbox { subscriptions } else { Some(none) });
        let publishing = Publishing { listeners, from_outbox };
        let store = open_store(&identity, tasks, publishing).await?;
        if encryption.is_needed() && !encryption.is_on() {
            return Err(BuildError::Store(ENCRYPTED.into()));
        }
        let broker = open_broker(&identity, tasks, &store).await?;
        let pipeline = Pipeline::new(config, kinds);
        let (relay, handle) = Relay::new(
            Arc::clone(&store),
            Arc::clone(&broker),
            Arc::clone(&pipeline),
            config.broker.relay_max_bytes,
        );
        let services = Services {
            plugins: changed.downgrade(),
            store,
            broker,
            relay: handle,
            pipeline,
            unrouted: Arc::default(),
            counted: Arc::default(),
            clock,
            host: name.into(),
            observer: self.observer.take(),
            spans: self.spans.clone(),
            turnstile: self.turnstile.clone(),
        };
        Ok((services, relay.with_spans(self.spans.clone())))
    }
}

/// Installs the stages that are Rust values.
async fn install(
    plugins: &PluginSupervisor,
    stages: Vec<Arc<dyn StageHandler>>,
) -> Result<(), BuildError> {
    for stage in stages {
        let name = stage.description().name.clone();
        let installed = plugins.install(&name, stage, None).await;
        installed.map_err(|refused| BuildError::Stage(refused.to_string()))?;
    }
    Ok(())
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

/// Worker threads of one of several namespaces: any of them may use the whole machine while the
/// others are idle.
fn own_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
