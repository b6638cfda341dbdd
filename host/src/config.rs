//! The configuration: a TOML file, then the environment (`POSTRIDER_HTTP__LISTEN=…`), checked as a
//! whole before anything starts.
//!
//! All problems are reported together, each with its key. Every bound that operators can set is
//! here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::{Deserialize, Serialize};

use self::features::Feature;
use self::sources::{Reader, sources};
pub use self::stage::StageConfig;
use self::urls::scheme;
pub use self::urls::{BrokerUrl, StoreUrl, mask_password};
use crate::domain::name::{DEFAULT_NAMESPACE, is_name};
use crate::domain::order_status::StatusRules;
use crate::runtime::RuntimeSettings;
use crate::runtime::provenance::{Policy, Provenance};
use crate::stage::handler::Description;
use crate::stage::policy::StagePolicy;
use crate::stage::settings::Secrets;

mod features;
mod shared;
mod sources;
mod stage;
#[cfg(test)]
mod tests;
mod urls;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "config/postrider.toml";

/// The whole configuration.
///
/// ```
/// use postrider::Config;
///
/// let mut config = Config::default();
/// config.http.listen = "127.0.0.1:0".into();
/// config.stages.entry("payment".into()).or_default().lanes = 4;
/// assert_eq!(config.stage("payment").lanes, 4);
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Prefix of names that other programs see: event sources, exchanges and queues. Hosts of
    /// different namespaces share neither orders nor stages: on Postgres each namespace has a schema
    /// of its own, an SQLite file belongs to one namespace.
    pub namespace: String,
    /// The API.
    pub http: HttpSettings,
    /// The database.
    pub store: StoreConfig,
    /// The queues.
    pub broker: BrokerConfig,
    /// The plugins folder.
    pub plugins: PluginsConfig,
    /// The WebAssembly engine.
    pub runtime: RuntimeSettings,
    /// Orders and their status.
    pub orders: OrdersConfig,
    /// Where product reads come from.
    pub products: ProductsConfig,
    /// What is recorded of each delivery, for `postrider replay`.
    pub recording: RecordingConfig,
    /// When finished orders are deleted.
    pub retention: RetentionConfig,
    /// How the host stops.
    pub shutdown: ShutdownConfig,
    /// Settings of every stage that does not override them.
    pub defaults: StageConfig,
    /// Settings of single stages, by name.
    pub stages: BTreeMap<String, StageConfig>,
}

/// The API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port.
    pub listen: String,
    /// Largest request body.
    pub body_max_bytes: usize,
    /// Longest time for a request.
    pub request_timeout_ms: u64,
    /// Most requests in flight; further ones are refused with 503.
    pub concurrency_max: usize,
    /// Most live streams and exports in flight.
    pub streams_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".into(),
            body_max_bytes: 1 << 20,
            request_timeout_ms: 10_000,
            concurrency_max: 1_024,
            streams_max: 256,
        }
    }
}

/// The database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `sqlite:<path>`, or a connection string of Postgres: `postgres://user:password@host:port/database`
    /// or any other form that libpq accepts.
    pub url: String,
    /// An outbox row that a host claimed and did not publish can be claimed again after this long.
    pub lease_ms: u64,
    /// Most operations that share one transaction.
    pub group_max_ops: usize,
    /// Connections to Postgres beside the writer's.
    pub connections: u32,
    /// Longest wait for a connection to Postgres, and for a transaction on it.
    pub timeout_ms: u64,
    /// Longest time for migrations of the schema on Postgres, the wait for those of other hosts
    /// included.
    pub migration_timeout_ms: u64,
    /// Migrate the schema at startup; otherwise run `postrider migrate`.
    pub migrate: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:data/postrider.db".into(),
            lease_ms: 10_000,
            group_max_ops: 256,
            connections: 8,
            timeout_ms: 5_000,
            migration_timeout_ms: 60 * 60 * 1_000,
            migrate: true,
        }
    }
}

/// The queues.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `embedded:`, or `amqp://user:password@host:port/vhost`.
    pub url: String,
    /// Most messages that one embedded queue holds in memory; further ones wait in the store.
    pub queue_capacity: u32,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { url: "embedded:".into(), queue_capacity: 10_000 }
    }
}

/// The plugins folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginsConfig {
    /// Every `*.wasm` in it is a stage.
    pub dir: PathBuf,
    /// Wait between a change in the folder and the scan, so that changes are gathered.
    pub debounce_ms: u64,
    /// Which files are loaded: `open`, `digest` or `signed`.
    pub policy: Policy,
    /// SHA-256 of the files that may be loaded, for the policy `digest`.
    pub digests: Vec<String>,
    /// Minisign public keys of trusted publishers, for the policy `signed`.
    pub publishers: Vec<String>,
    /// Folder for copies of loaded plugins, for rollbacks.
    pub archive_dir: PathBuf,
}

impl PluginsConfig {
    /// The policy that these keys describe, or every problem of them.
    pub fn provenance(&self) -> Result<Provenance, Vec<String>> {
        Provenance::new(self.policy, &self.digests, &self.publishers)
    }
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            dir: "plugins".into(),
            debounce_ms: 100,
            policy: Policy::Open,
            digests: Vec::new(),
            publishers: Vec::new(),
            archive_dir: "data/plugins".into(),
        }
    }
}

/// Orders and their status.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrdersConfig {
    /// Which events move an order to which status.
    pub status: StatusRules,
    /// An event that has been due for this long is dead-lettered instead of processed.
    pub expiry_ms: u64,
    /// Longest chain of events.
    pub hops_max: u32,
    /// Event types that other programs publish: no warning if no stage here emits them.
    pub external_event_types: Vec<String>,
    /// Orders and events may be scheduled at most this far ahead.
    pub schedule_max_ms: u64,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Default for OrdersConfig {
    fn default() -> Self {
        Self {
            status: StatusRules::default(),
            expiry_ms: DAY_MS,
            hops_max: 64,
            external_event_types: vec!["carrier.collected".into()],
            schedule_max_ms: 30 * DAY_MS,
        }
    }
}

/// Where product reads come from: a stage's own state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProductsConfig {
    /// The stage.
    pub stage: String,
    /// Prefix of its keys; the rest of a key is the SKU.
    pub prefix: String,
}

impl Default for ProductsConfig {
    fn default() -> Self {
        Self { stage: "inventory".into(), prefix: "stock/".into() }
    }
}

/// What is recorded of each delivery, to replay it through another plugin (`postrider replay`). A
/// recording is deleted with its order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// Record what stages read and wrote, except secrets. Off by default: it takes time, and stores
    /// state a second time.
    pub enabled: bool,
    /// Largest recording of one delivery; a larger one is truncated.
    pub max_bytes: usize,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self { enabled: false, max_bytes: 4_096 }
    }
}

/// Smallest `max_bytes`: a decision does not fit into less.
const RECORDING_MIN_BYTES: usize = 256;
/// Largest `max_bytes`: the recordings of a batch are held in memory.
const RECORDING_MAX_BYTES: usize = 1 << 20;

/// When finished orders are deleted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Retention period of finished orders and of events without an order, counted from their last
    /// change; 0 keeps them forever.
    pub max_age_ms: u64,
    /// Time between two deletions.
    pub interval_ms: u64,
    /// Most orders deleted in one transaction.
    pub batch: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { max_age_ms: 90 * 24 * 60 * 60 * 1_000, interval_ms: 60_000, batch: 100 }
    }
}

/// How the host stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Grace period for work in flight; unfinished messages go back to their queue.
    pub grace_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace_ms: 10_000 }
    }
}

/// Everything that is wrong with a configuration.
///
/// ```
/// use postrider::Config;
///
/// let error = Config::from_toml("[http]\nlisten_on = \"127.0.0.1:0\"").unwrap_err();
/// assert!(error.to_string().contains("http"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem(s):\n{}", .0.len(), .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Default for Config {
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.into(),
            http: HttpSettings::default(),
            store: StoreConfig::default(),
            broker: BrokerConfig::default(),
            plugins: PluginsConfig::default(),
            runtime: RuntimeSettings::default(),
            orders: OrdersConfig::default(),
            products: ProductsConfig::default(),
            recording: RecordingConfig::default(),
            retention: RetentionConfig::default(),
            shutdown: ShutdownConfig::default(),
            defaults: StageConfig::default(),
            stages: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The settings of a stage: its own section, else the defaults.
    pub fn stage(&self, name: &str) -> &StageConfig {
        self.stages.get(name).unwrap_or(&self.defaults)
    }

    /// The policy of a stage whose plugin has this description.
    pub fn stage_policy(&self, name: &Arc<str>, description: &Description) -> StagePolicy {
        let operator = self.stage(name);
        StagePolicy {
            name: Arc::clone(name),
            source: format!("/{}/stages/{name}", self.namespace),
            consumes: operator.consumes.clone().unwrap_or_else(|| description.consumes.clone()),
            emits: description.emits.clone(),
            retry: operator.retry,
            hops_max: self.orders.hops_max,
            expiry_ms: self.orders.expiry_ms,
        }
    }

    /// Reads `file` (or the default file where it exists, else the built-in defaults), then the
    /// environment, then the secrets.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_figment(&sources(file)?)
    }

    /// The same without reading secrets, for commands that only show the configuration.
    pub fn declared(file: Option<&Path>) -> Result<Self, ConfigError> {
        let (config, problems) = Self::parse(&sources(file)?);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// Reads a TOML text, without the environment.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_figment(&Figment::from(Toml::string(text)))
    }

    fn from_figment(figment: &Figment) -> Result<Self, ConfigError> {
        let (mut config, mut problems) = Self::parse(figment);
        for (name, stage) in &mut config.stages {
            stage.secret_values =
                Secrets::read(&stage.secrets, &format!("stages.{name}.secrets"), &mut problems);
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    fn parse(figment: &Figment) -> (Self, Vec<String>) {
        let mut reader = Reader { figment, problems: Vec::new() };
        reader.refuse_unknown_sections();
        let defaults: StageConfig = reader.section("defaults");
        let config = Self {
            namespace: reader.value("namespace", DEFAULT_NAMESPACE.to_owned()),
            http: reader.section("http"),
            store: reader.section("store"),
            broker: reader.section("broker"),
            plugins: reader.section("plugins"),
            runtime: reader.section("runtime"),
            orders: reader.section("orders"),
            products: reader.section("products"),
            recording: reader.section("recording"),
            retention: reader.section("retention"),
            shutdown: reader.section("shutdown"),
            stages: reader.stages(&defaults),
            defaults,
        };
        config.validate(&mut reader.problems);
        (config, reader.problems)
    }

    fn validate(&self, problems: &mut Vec<String>) {
        if !is_name(&self.namespace) {
            problems
                .push(format!("namespace: `{}` must match [a-z][a-z0-9-]{{0,39}}", self.namespace));
        }
        if let Err(found) = self.plugins.provenance() {
            problems.extend(found);
        }
        // A URL may hold a password: only its scheme is shown.
        match StoreUrl::parse(&self.store.url) {
            Some(url) => {
                problems.extend(Feature::of_store(url).problem("store.url"));
                problems.extend(url.problem().map(|problem| format!("store.url: {problem}")));
            }
            None => problems.push(format!(
                "store.url: `{}…` must be `sqlite:<path>`, `postgres://…` or `host=… dbname=…`",
                scheme(&self.store.url)
            )),
        }
        match BrokerUrl::parse(&self.broker.url).map(Feature::of_broker) {
            Some(feature) => {
                problems.extend(feature.and_then(|feature| feature.problem("broker.url")));
            }
            None => problems.push(format!(
                "broker.url: `{}…` must be `embedded:` or `amqp://…`",
                scheme(&self.broker.url)
            )),
        }
        for (key, value) in [
            ("store.lease_ms", self.store.lease_ms),
            ("store.group_max_ops", self.store.group_max_ops as u64),
            ("store.connections", u64::from(self.store.connections)),
            ("store.timeout_ms", self.store.timeout_ms),
            ("store.migration_timeout_ms", self.store.migration_timeout_ms),
            ("broker.queue_capacity", u64::from(self.broker.queue_capacity)),
            ("retention.interval_ms", self.retention.interval_ms),
            ("retention.batch", u64::from(self.retention.batch)),
            ("orders.expiry_ms", self.orders.expiry_ms),
            ("orders.hops_max", u64::from(self.orders.hops_max)),
        ] {
            at_least_one(key, value, problems);
        }
        if !(RECORDING_MIN_BYTES..=RECORDING_MAX_BYTES).contains(&self.recording.max_bytes) {
            let max_bytes = self.recording.max_bytes;
            problems.push(format!("recording.max_bytes: {max_bytes} must be from {RECORDING_MIN_BYTES} to {RECORDING_MAX_BYTES}"));
        }
        // A copy of a deleted order's event would be processed again, so every copy must have
        // expired by then.
        if self.retention.max_age_ms != 0
            && self.retention.max_age_ms < self.orders.expiry_ms.saturating_mul(2)
        {
            let least_ms = self.orders.expiry_ms.saturating_mul(2);
            problems.push(format!(
                "retention.max_age_ms: {} must be 0 or at least twice orders.expiry_ms: {least_ms}",
                self.retention.max_age_ms
            ));
        }
        self.orders.status.validate("orders.status", problems);
        self.defaults.validate("defaults", problems);
        // Defaults would apply to every file that is added to the folder.
        for (key, given) in [
            ("grants.http", !self.defaults.grants.http.is_empty()),
            ("secrets", !self.defaults.secrets.is_empty()),
        ] {
            if given {
                problems
                    .push(format!("defaults.{key}: must be set per stage, under [stages.<name>]"));
            }
        }
        for (name, stage) in &self.stages {
            if !is_name(name) {
                problems.push(format!("stages.{name}: the name must match [a-z][a-z0-9-]{{0,39}}"));
            }
            stage.validate(&format!("stages.{name}"), problems);
        }
    }
}

fn at_least_one(key: &str, value: u64, problems: &mut Vec<String>) {
    if value == 0 {
        problems.push(format!("{key}: must be at least 1"));
    }
}
