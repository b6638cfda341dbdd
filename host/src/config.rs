//! The configuration: a TOML file, then the environment (`POSTRIDER_HTTP__LISTEN=…`), checked as a whole before anything starts.
//!
//! Every problem is reported at once, each with its key. Every bound of the host has its place here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::breaker::BreakerPolicy;
use crate::decide::{RetryPolicy, StagePolicy};
use crate::egress::Grants;
use crate::guard::GuardPolicy;
use crate::handler::Description;
use crate::provenance::{Policy, Provenance};
use crate::runtime::{InstanceMode, InstancePolicy, RuntimeSettings, StageLimits, WarmPolicy};
use crate::settings::{SecretSource, Secrets};
use crate::store::status::StatusRules;

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "config/postrider.toml";

/// The whole configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// First word of everything that is named outside: event sources, queues.
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
    /// What is kept of each delivery, to run it again through another plugin.
    pub recording: RecordingConfig,
    /// What becomes of what is finished and old.
    pub retention: RetentionConfig,
    /// Stopping.
    pub shutdown: ShutdownConfig,
    /// What holds for every stage that does not say otherwise.
    pub defaults: StageConfig,
    /// The operator's word on single stages.
    pub stages: BTreeMap<String, StageConfig>,
}

/// The API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port.
    pub listen: String,
    /// Largest body.
    pub body_max_bytes: usize,
    /// Longest request.
    pub request_timeout_ms: u64,
    /// Most requests under way at once.
    pub concurrency_max: usize,
    /// Most live streams and exports at once.
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
    /// `sqlite:<path>`, or `postgres://user:password@host:port/database`.
    pub url: String,
    /// An outbox row that a host took and did not finish is taken again after this long.
    pub lease_ms: u64,
    /// Most operations that share one transaction.
    pub group_max_ops: usize,
    /// Connections to Postgres beside the writer's.
    pub connections: u32,
    /// Longest wait for a connection to Postgres, and for a transaction.
    pub timeout_ms: u64,
    /// Bring the schema up to date at the start; otherwise `postrider migrate` does.
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
    /// Messages that one embedded queue holds in memory; the rest waits in the store.
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
    /// Changes are gathered for this long before files are read.
    pub debounce_ms: u64,
    /// Which files are loaded: `open`, `digest` or `signed`.
    pub policy: Policy,
    /// SHA-256 of the files that may be loaded, for the policy `digest`.
    pub digests: Vec<String>,
    /// Public keys (minisign) of who may sign files, for the policy `signed`.
    pub publishers: Vec<String>,
    /// What was loaded is kept here, for a roll-back.
    pub keep_dir: PathBuf,
}

impl PluginsConfig {
    /// Decides which files are loaded; every problem of these keys instead.
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
            keep_dir: "data/plugins".into(),
        }
    }
}

/// Orders and their status.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrdersConfig {
    /// Which events move an order to which status.
    pub status: StatusRules,
    /// An event that was due this long ago is dead-lettered instead of run.
    pub expiry_ms: u64,
    /// Longest chain of events.
    pub hops_max: u32,
    /// Event types that other programs publish: a stage that waits for one waits for somebody.
    pub outside: Vec<String>,
    /// What is sent with a time or a delay may be due this long ahead.
    pub schedule_max_ms: u64,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Default for OrdersConfig {
    fn default() -> Self {
        Self {
            status: StatusRules::default(),
            expiry_ms: DAY_MS,
            hops_max: 64,
            outside: vec!["carrier.collected".into()],
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

/// What is kept of each delivery, to run it again through another plugin (`postrider replay`). It goes with its order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// Keep what stages read and wrote; secrets never. Off by default: it costs time, and it keeps what is in the state a second time.
    pub enabled: bool,
    /// Most of it, for one delivery; one that does not fit is cut.
    pub max_bytes: usize,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self { enabled: false, max_bytes: 4_096 }
    }
}

/// Least room for a recording: less would hold no decision.
const RECORDING_MIN_BYTES: usize = 256;
/// Most room for a recording: what a group of deliveries writes at once is held in memory.
const RECORDING_MAX_BYTES: usize = 1 << 20;

/// What becomes of what is finished and old.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Finished orders and events without an order are kept this long after their last change; 0: for ever.
    pub keep_ms: u64,
    /// How often what is old is looked for.
    pub every_ms: u64,
    /// Most orders removed in one transaction.
    pub batch: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { keep_ms: 90 * 24 * 60 * 60 * 1_000, every_ms: 60_000, batch: 100 }
    }
}

/// Stopping.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Work in flight may take this long to finish; what is left goes back to the queue.
    pub grace_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace_ms: 10_000 }
    }
}

/// The operator's word on a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageConfig {
    /// Plugin file; default: the one whose `describe` gives the stage's name.
    pub plugin: Option<String>,
    /// Topic patterns instead of the plugin's own.
    pub consumes: Option<Vec<String>>,
    /// Messages run at once, split by subject; a stage with an HTTP grant has at least as many as `grants.http_concurrency`.
    pub lanes: u32,
    /// Most messages in one transaction; a stage with an HTTP grant commits each message by itself.
    pub batch_max: u32,
    /// A batch is committed when it has run this long.
    pub batch_time_ms: u64,
    /// Most messages held, those in flight included.
    pub prefetch: u32,
    /// State keys that a lane remembers between batches.
    pub state_cache_keys: u32,
    /// Fresh instance per message, or warm ones.
    pub instances: InstanceMode,
    /// How long a warm instance lives.
    pub warm: WarmPolicy,
    /// Retries.
    pub retry: RetryPolicy,
    /// When the stage is stopped because what it depends on is down.
    pub breaker: BreakerPolicy,
    /// When a new version of its plugin is distrusted, and the one before put back.
    pub guard: GuardPolicy,
    /// One host at a time consumes the stage; the others stand by.
    pub single_active: bool,
    /// Most messages per second on this host; none: as fast as it goes.
    pub rate_per_s: Option<u32>,
    /// Limits of one call.
    pub limits: StageLimits,
    /// What `config.get` answers.
    pub settings: BTreeMap<String, String>,
    /// What it may reach outside. Nothing by default.
    pub grants: Grants,
    /// What `config.get` answers besides, and nobody else is told: where each is found.
    pub secrets: BTreeMap<String, SecretSource>,
    /// The values, read when the configuration was loaded. Never written anywhere.
    #[serde(skip)]
    pub secret_values: Secrets,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            plugin: None,
            consumes: None,
            lanes: 1,
            batch_max: 128,
            batch_time_ms: 50,
            prefetch: 512,
            state_cache_keys: 10_000,
            instances: InstanceMode::default(),
            warm: WarmPolicy::default(),
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            guard: GuardPolicy::default(),
            single_active: false,
            rate_per_s: None,
            limits: StageLimits::default(),
            settings: BTreeMap::new(),
            grants: Grants::default(),
            secrets: BTreeMap::new(),
            secret_values: Secrets::default(),
        }
    }
}

impl StageConfig {
    /// Whether its messages wait for the outside: then each is committed by itself, so that none waits for another's call.
    pub fn calls_out(&self) -> bool {
        !self.grants.http.is_empty()
    }

    /// Messages that run at once on this host: as many as calls, for a stage that calls the outside.
    pub fn at_once(&self) -> usize {
        let calls = if self.calls_out() { self.grants.http_concurrency } else { 1 };
        self.lanes.max(calls).max(1) as usize
    }

    /// Most messages in one transaction.
    pub fn batch_most(&self) -> usize {
        if self.calls_out() { 1 } else { self.batch_max.max(1) as usize }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem(s):\n{}", .0.len(), .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Default for Config {
    fn default() -> Self {
        Self {
            namespace: "orders".into(),
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

const SECTIONS: [&str; 13] = [
    "namespace",
    "http",
    "store",
    "broker",
    "plugins",
    "runtime",
    "orders",
    "products",
    "recording",
    "retention",
    "shutdown",
    "defaults",
    "stages",
];

impl Config {
    /// The operator's word on a stage: its own section, else the defaults.
    pub fn stage(&self, name: &str) -> &StageConfig {
        self.stages.get(name).unwrap_or(&self.defaults)
    }

    /// What decisions need to know of a stage that describes itself so.
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

    /// Reads `file` (or the default file where it exists, else the built-in defaults), then the environment, then the secrets.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_figment(&sources(file)?)
    }

    /// The same without the secrets: for whoever only looks at what is granted.
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
            stage.secret_values = Secrets::read(&stage.secrets, &format!("stages.{name}.secrets"), &mut problems);
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    fn parse(figment: &Figment) -> (Self, Vec<String>) {
        let mut reader = Reader { figment, problems: Vec::new() };
        reader.refuse_unknown_sections();
        let defaults: StageConfig = reader.section("defaults");
        let config = Self {
            namespace: reader.value("namespace", "orders".to_owned()),
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
            problems.push(format!("namespace: `{}` must match [a-z][a-z0-9-]{{0,39}}", self.namespace));
        }
        if let Err(found) = self.plugins.provenance() {
            problems.extend(found);
        }
        // A URL may hold a password: only its scheme is shown.
        if StoreUrl::parse(&self.store.url).is_none() {
            problems.push(format!("store.url: `{}…` must be `sqlite:<path>` or `postgres://…`", scheme(&self.store.url)));
        }
        if BrokerUrl::parse(&self.broker.url).is_none() {
            problems.push(format!("broker.url: `{}…` must be `embedded:` or `amqp://…`", scheme(&self.broker.url)));
        }
        for (key, value) in [
            ("store.lease_ms", self.store.lease_ms),
            ("store.group_max_ops", self.store.group_max_ops as u64),
            ("store.connections", u64::from(self.store.connections)),
            ("store.timeout_ms", self.store.timeout_ms),
            ("broker.queue_capacity", u64::from(self.broker.queue_capacity)),
            ("retention.every_ms", self.retention.every_ms),
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
        // What was pruned is forgotten: a copy of its event that still came would be run again. So every copy must have expired.
        if self.retention.keep_ms != 0 && self.retention.keep_ms < self.orders.expiry_ms.saturating_mul(2) {
            let least_ms = self.orders.expiry_ms.saturating_mul(2);
            problems
                .push(format!("retention.keep_ms: {} must be 0 or at least twice orders.expiry_ms: {least_ms}", self.retention.keep_ms));
        }
        self.orders.status.validate("orders.status", problems);
        self.defaults.validate("defaults", problems);
        // Whoever drops a file into the folder would be given these as well.
        for (key, given) in [("grants.http", !self.defaults.grants.http.is_empty()), ("secrets", !self.defaults.secrets.is_empty())] {
            if given {
                problems.push(format!("defaults.{key}: is given stage by stage, under [stages.<name>]"));
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

impl StageConfig {
    /// How the stage's instances live.
    pub fn instance_policy(&self) -> InstancePolicy {
        match self.instances {
            InstanceMode::Fresh => InstancePolicy::Fresh,
            InstanceMode::Warm => InstancePolicy::Warm(self.warm),
        }
    }

    fn validate(&self, key: &str, problems: &mut Vec<String>) {
        for (name, value) in [
            ("lanes", self.lanes),
            ("batch_max", self.batch_max),
            ("prefetch", self.prefetch),
            ("warm.calls_max", self.warm.calls_max),
            ("retry.max_attempts", self.retry.max_attempts),
        ] {
            at_least_one(&format!("{key}.{name}"), u64::from(value), problems);
        }
        if self.lanes > 64 {
            problems.push(format!("{key}.lanes: {} is more than 64", self.lanes));
        }
        at_least_one(&format!("{key}.rate_per_s"), u64::from(self.rate_per_s.unwrap_or(1)), problems);
        if !(0.0..=1.0).contains(&self.breaker.failure_share) {
            problems.push(format!("{key}.breaker.failure_share: {} must be between 0 and 1", self.breaker.failure_share));
        }
        if !(0.0..=1.0).contains(&self.retry.jitter) {
            problems.push(format!("{key}.retry.jitter: {} must be between 0 and 1", self.retry.jitter));
        }
        if !(1.0..=100.0).contains(&self.retry.multiplier) {
            problems.push(format!("{key}.retry.multiplier: {} must be between 1 and 100", self.retry.multiplier));
        }
        if self.plugin.as_ref().is_some_and(|file| file.contains('/') || Path::new(file).extension().is_none_or(|end| end != "wasm")) {
            problems.push(format!("{key}.plugin: must be the name of a .wasm file in the plugins folder, without a path"));
        }
        if self.consumes.as_ref().is_some_and(|patterns| patterns.is_empty() || patterns.iter().any(String::is_empty)) {
            problems.push(format!("{key}.consumes: name at least one event type or pattern, none of them empty"));
        }
        self.grants.validate(&format!("{key}.grants"), problems);
        let both = self.secrets.keys().filter(|name| self.settings.contains_key(*name));
        problems.extend(both.map(|name| format!("{key}.secrets.{name}: {key}.settings has this name, too")));
    }
}

/// A file and the environment.
fn sources(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let figment = match file {
        Some(file) if !file.is_file() => return Err(ConfigError(vec![format!("{}: there is no such file", file.display())])),
        Some(file) => Figment::from(Toml::file_exact(file)),
        None => Figment::from(Toml::file(DEFAULT_FILE)),
    };
    // Only names with a section: orchestrators put names such as POSTRIDER_SERVICE_HOST into the environment, which are not for us.
    let environment = Env::prefixed("POSTRIDER_").filter(|name| name.as_str().contains("__")).split("__");
    Ok(well_known(figment, |name| std::env::var(name).ok())?.merge(environment))
}

/// Which store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreUrl<'a> {
    /// The path of the file.
    Sqlite(&'a str),
    /// The whole URL.
    Postgres(&'a str),
}

impl<'a> StoreUrl<'a> {
    /// None for anything else.
    pub fn parse(url: &'a str) -> Option<Self> {
        match url.split_once(':')? {
            ("sqlite", path) => Some(Self::Sqlite(path.strip_prefix("//").unwrap_or(path))).filter(|_| !path.is_empty()),
            ("postgres" | "postgresql", _) => Some(Self::Postgres(url)),
            _ => None,
        }
    }
}

/// Which broker a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerUrl<'a> {
    /// In this process.
    Embedded,
    /// `RabbitMQ`: the whole URL.
    Amqp(&'a str),
}

impl<'a> BrokerUrl<'a> {
    /// None for anything else.
    pub fn parse(url: &'a str) -> Option<Self> {
        match url.split_once(':')? {
            ("embedded", "") => Some(Self::Embedded),
            ("amqp", _) => Some(Self::Amqp(url)),
            _ => None,
        }
    }
}

fn scheme(url: &str) -> &str {
    url.split_inclusive(':').next().unwrap_or(url)
}

/// Variables that many deployments set for other programs as well, and the keys that they stand for.
///
/// `MAX_RETRY_ATTEMPTS` and `RETRY_DELAY_SECONDS` hold for every stage, whatever the file says about it.
fn well_known(figment: Figment, variable: impl Fn(&str) -> Option<String>) -> Result<Figment, ConfigError> {
    let mut figment = figment;
    let mut problems = Vec::new();
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    for (name, key) in [("DATABASE_URL", "store.url"), ("AMQP_URL", "broker.url")] {
        if let Some(url) = set(name) {
            figment = figment.merge((key, url));
        }
    }
    let stages: Vec<String> = figment
        .extract_inner::<figment::value::Dict>("stages")
        .map(|stages| stages.keys().map(|name| format!("stages.{name}")).collect())
        .unwrap_or_default();
    let everywhere: Vec<String> = stages.into_iter().chain(["defaults".to_owned()]).collect();
    if let Some(text) = set("MAX_RETRY_ATTEMPTS") {
        match text.parse::<u32>() {
            Ok(attempts) => {
                figment = everywhere.iter().fold(figment, |all, place| all.merge((format!("{place}.retry.max_attempts"), attempts)));
            }
            Err(error) => problems.push(format!("MAX_RETRY_ATTEMPTS: `{text}` is not a number of attempts: {error}")),
        }
    }
    if let Some(text) = set("RETRY_DELAY_SECONDS") {
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => {
                let initial_ms = (seconds * 1_000.0) as u64;
                figment = everywhere.iter().fold(figment, |all, place| all.merge((format!("{place}.retry.initial_ms"), initial_ms)));
            }
            _ => problems.push(format!("RETRY_DELAY_SECONDS: `{text}` is not a number of seconds between 0 and 86400")),
        }
    }
    if problems.is_empty() { Ok(figment) } else { Err(ConfigError(problems)) }
}

/// Whether a stage or namespace may be called so.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 40
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn at_least_one(key: &str, value: u64, problems: &mut Vec<String>) {
    if value == 0 {
        problems.push(format!("{key}: must be at least 1"));
    }
}

/// Reads sections one by one, so that a mistake in one does not hide those in another.
struct Reader<'a> {
    figment: &'a Figment,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn refuse_unknown_sections(&mut self) {
        match self.figment.extract::<figment::value::Dict>() {
            Ok(all) => {
                let unknown = all.keys().filter(|key| !SECTIONS.contains(&key.as_str()));
                self.problems.extend(unknown.map(|key| format!("{key}: unknown; expected one of {}", SECTIONS.join(", "))));
            }
            Err(errors) => self.problems.extend(errors.into_iter().map(|error| error.to_string())),
        }
    }

    fn value<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        if self.figment.find_value(key).is_err() {
            return default;
        }
        self.figment.extract_inner(key).unwrap_or_else(|errors| {
            self.note(key, errors);
            default
        })
    }

    fn section<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        self.value(key, T::default())
    }

    fn stages(&mut self, defaults: &StageConfig) -> BTreeMap<String, StageConfig> {
        let named: BTreeMap<String, figment::value::Value> = self.section("stages");
        let mut stages = BTreeMap::new();
        for (name, value) in named {
            let merged = Figment::from(Serialized::defaults(defaults)).merge(Serialized::defaults(value));
            match merged.extract() {
                Ok(stage) => _ = stages.insert(name, stage),
                Err(errors) => self.note(&format!("stages.{name}"), errors),
            }
        }
        stages
    }

    fn note(&mut self, key: &str, errors: figment::Error) {
        self.problems.extend(errors.into_iter().map(|error| {
            // `extract_inner` puts the section's own name behind the path inside it.
            let inside = error.path.iter().map(String::as_str).filter(|part| *part != key);
            let place = std::iter::once(key).chain(inside).collect::<Vec<_>>().join(".");
            // What stands in the place of a source may be the secret itself.
            if error.path.iter().any(|part| part == "secrets") {
                return format!("{place}: must be {{ env = \"NAME\" }} or {{ file = \"/path\" }}");
            }
            format!("{place}: {}", error.kind)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::from_toml("").unwrap();
        assert_eq!(config.http.listen, HttpSettings::default().listen);
        assert_eq!(config.namespace, "orders");
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_key() {
        let text = r#"
            namespace = "Orders!"
            surprise = 1
            [http]
            listen = 7
            [store]
            url = "mysql://x"
            [recording]
            max_bytes = 1
            [stages.payment]
            lanes = 0
            retry = { jitter = 3.0 }
            [stages.shipping]
            colour = "red"
        "#;
        let ConfigError(problems) = Config::from_toml(text).unwrap_err();
        for key in [
            "namespace:",
            "surprise:",
            "http.listen:",
            "store.url:",
            "recording.max_bytes:",
            "stages.payment.lanes:",
            "stages.payment.retry.jitter:",
            "stages.shipping",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} is missing from {problems:#?}");
        }
    }

    #[test]
    fn well_known_variables_stand_for_their_keys_in_every_stage() {
        let file = Figment::from(Toml::string("[stages.payment.retry]\nmax_attempts = 4\n"));
        let variable = |name: &str| {
            let value = match name {
                "DATABASE_URL" => "postgres://u:secret@db/x",
                "AMQP_URL" => "amqp://mq",
                "MAX_RETRY_ATTEMPTS" => "7",
                "RETRY_DELAY_SECONDS" => "0.25",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let config = Config::from_figment(&well_known(file.clone(), variable).unwrap()).unwrap();
        assert_eq!((config.store.url.as_str(), config.broker.url.as_str()), ("postgres://u:secret@db/x", "amqp://mq"));
        for retry in [config.defaults.retry, config.stages["payment"].retry] {
            assert_eq!((retry.max_attempts, retry.initial_ms), (7, 250));
        }
        let ConfigError(problems) = well_known(file, |_| Some("many".to_owned())).map(|_| ()).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        // A mistyped URL may hold a password, which is not shown.
        let ConfigError(problems) = Config::from_toml("store.url = \"mysql://u:secret@db/x\"").unwrap_err();
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }

    #[test]
    fn grants_and_secrets_are_checked_and_no_value_is_ever_shown() {
        let text = r#"
            [defaults.grants]
            http = [{ host = "a.example", methods = ["GET"] }]
            [defaults.secrets]
            key = { env = "PATH" }
            [stages.payment.grants]
            http = [{ host = "a.example", methods = ["GET"] }, { scheme = "ftp", host = "*.com", methods = ["STEAL"] }]
            http_calls_max = 0
            [stages.payment.secrets]
            twice = { env = "PATH" }
            unset = { env = "POSTRIDER_TEST_NO_SUCH_SECRET" }
            [stages.payment.settings]
            twice = "on"
        "#;
        let ConfigError(problems) = Config::from_toml(text).unwrap_err();
        for key in [
            "defaults.grants.http:",
            "defaults.secrets:",
            "stages.payment.grants.http[1].scheme:",
            "stages.payment.grants.http[1].host:",
            "stages.payment.grants.http[1].methods:",
            "stages.payment.grants.http_calls_max:",
            "stages.payment.secrets.twice:",
            "stages.payment.secrets.unset:",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} is missing from {problems:#?}");
        }
        for mistake in ["key = \"plain-text\"", "key = { value = \"plain-text\" }", "key = { env = [\"plain-text\"] }"] {
            let ConfigError(problems) = Config::from_toml(&format!("[stages.payment.secrets]\n{mistake}\n")).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains("env = ") && !problems[0].contains("plain-text"), "{problems:?}");
        }
        let config = Config::from_toml("[stages.payment.secrets]\nkey = { env = \"PATH\" }\n").unwrap();
        let value = std::env::var("PATH").unwrap();
        assert_eq!(config.stages["payment"].secret_values, Secrets::from_iter([("key".to_owned(), value.clone())]));
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(shown.contains(r#""key":{"env":"PATH"}"#) && !shown.contains(&value), "{shown}");
        assert!(config.defaults.grants.http.is_empty());
    }

    #[test]
    fn a_stage_inherits_the_defaults() {
        let config = Config::from_toml("[defaults]\nlanes = 3\n[stages.payment.retry]\nmax_attempts = 2\n").unwrap();
        assert_eq!(config.stages["payment"].lanes, 3);
        assert_eq!(config.stages["payment"].retry.max_attempts, 2);
        assert_eq!(config.stages["payment"].retry.initial_ms, RetryPolicy::default().initial_ms);
    }
}
