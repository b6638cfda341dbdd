//! The configuration: a TOML file, then the environment (`POSTRIDER_HTTP__LISTEN=…`), checked as a
//! whole before anything starts.
//!
//! All problems are reported together, each with its key. Every bound that operators can set is
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::{Dict, Value};
use serde::{Deserialize, Serialize};

pub use self::auth::{AuthConfig, AuthMode, JwtAlgorithm, JwtConfig, SessionsConfig};
pub use self::encryption::EncryptionConfig;
pub use self::environment::OTHER_VARIABLES;
use self::environment::Variables;
pub use self::http::{ConsoleSettings, CorsSettings, HttpSettings, RateLimits};
pub use self::ingress::{IngressConfig, IngressRule};
use self::reader::Reader;
pub use self::shown::{Beside, ShownSetting};
use self::sources::Sources;
pub use self::stage::StageConfig;
pub use self::stage_store::StageStoreConfig;
#[cfg(test)]
pub(crate) use self::subjects::RESERVED_SEGMENTS;
pub use self::subjects::SubjectConfig;
pub use self::tls::{BrokerTls, HttpTls};
pub use self::urls::{BrokerUrl, StoreUrl};
use crate::domain::cloud_events::allow_list::AllowList;
use crate::domain::cloud_events::ingress::IngressSettings;
use crate::domain::event::topic_problem;
use crate::domain::name::DEFAULT_NAMESPACE;
use crate::domain::subject_kind::SubjectKinds;
use crate::runtime::RuntimeSettings;
use crate::runtime::provenance::{Policy, Provenance};
use crate::stage::event_settings;
use crate::stage::handler::Description;
use crate::stage::policy::StagePolicy;
use crate::stage::settings::Secrets;

mod auth;
mod encryption;
mod environment;
mod features;
mod http;
mod ingress;
mod namespaces;
mod reader;
mod shared;
mod shown;
mod sources;
mod stage;
mod stage_store;
mod subjects;
#[cfg(test)]
mod tests;
mod tls;
mod urls;
mod validate;

const SECTIONS: [&str; 18] = [
    "namespace",
    "namespaces",
    "http",
    "auth",
    "encryption",
    "store",
    "broker",
    "plugins",
    "runtime",
    "subjects",
    "events",
    "ingress",
    "products",
    "recording",
    "retention",
    "shutdown",
    "defaults",
    "stages",
];

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "config/postrider.toml";

/// The plugins folder of a configuration that names none.
const DEFAULT_PLUGINS_DIR: &str = "plugins";

/// The whole configuration: read from a file and the environment, from a text, or built in code.
/// However it was made, it is valid once [`Config::validate`] says so, which a build asks as well.
///
/// ```
/// use postrider::Config;
///
/// let mut config = Config::default();
/// config.store.url = "sqlite:orders.db".into();
/// config.stages.entry("payment".into()).or_default().lanes = 4;
/// assert!(config.validate().is_ok());
///
/// config.stages.entry("payment".into()).or_default().lanes = 65;
/// let problems = config.validate().unwrap_err().to_string();
/// assert!(problems.contains("stages.payment.lanes: 65 is more than 64"));
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Prefix of names that other programs see: event sources, exchanges and queues. Hosts of
    /// different namespaces share neither subjects nor stages: on Postgres each namespace has a schema
    /// of its own, an SQLite file belongs to one namespace.
    pub namespace: String,
    /// The API.
    pub http: HttpSettings,
    /// Who may use the API.
    pub auth: AuthConfig,
    /// Encryption of what is stored.
    pub encryption: EncryptionConfig,
    /// The database.
    pub store: StoreConfig,
    /// The queues.
    pub broker: BrokerConfig,
    /// The plugins folder.
    pub plugins: PluginsConfig,
    /// The WebAssembly engine.
    pub runtime: RuntimeSettings,
    /// Kinds of subjects, by name: what events are about. `order` is built in.
    pub subjects: BTreeMap<String, SubjectConfig>,
    /// Limits on events.
    pub events: EventsConfig,
    /// What other programs may send.
    pub ingress: IngressConfig,
    /// Where product reads come from.
    pub products: ProductsConfig,
    /// What is recorded of each delivery, for `postrider replay`.
    pub recording: RecordingConfig,
    /// When finished subjects are deleted.
    pub retention: RetentionConfig,
    /// How the host stops.
    pub shutdown: ShutdownConfig,
    /// Settings of every stage that does not override them.
    pub defaults: StageConfig,
    /// Settings of single stages, by name.
    pub stages: BTreeMap<String, StageConfig>,
    /// Further namespaces of this process, by name; see [`Config::beside`]. What belongs to the process
    /// is that of the top level: `http.listen`, `http.cors`, `runtime` and `shutdown`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "namespaces::serialize")]
    pub namespaces: BTreeMap<String, Config>,
    /// What was ignored when it was read: environment variables that mean nothing.
    #[serde(skip)]
    pub warnings: Vec<String>,
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
    /// `embedded:`, or `amqp://user:password@host:port/vhost`; `amqps://…` is encrypted.
    pub url: String,
    /// Most messages that one embedded queue holds in memory; further ones wait in the store.
    pub queue_capacity: u32,
    /// Most bytes of events that one embedded queue holds in memory; further ones wait in the store.
    pub queue_max_bytes: u64,
    /// Most bytes of events that wait to be sent, or for the broker's confirm; further ones wait in
    /// the store.
    pub relay_max_bytes: u64,
    /// Whether a host runs the next stage itself when that stage runs there and has room, without a
    /// message; for RabbitMQ, and only if `subscriptions` is set.
    pub local_handover: bool,
    /// Topic patterns of the events that queues of other programs receive from RabbitMQ: these are
    /// always published. None: not known, so every event is published.
    pub subscriptions: Option<Vec<String>>,
    /// Certificates of an `amqps://` connection.
    pub tls: BrokerTls,
}

impl BrokerConfig {
    /// Whether hosts hand events over to their own stages. The embedded queues are in the host already.
    pub(crate) fn hands_over(&self) -> bool {
        self.local_handover && self.is_shared()
    }

    /// Whether other programs may use the broker.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(BrokerUrl::parse(&self.url), Some(BrokerUrl::Embedded))
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            url: "embedded:".into(),
            queue_capacity: 10_000,
            queue_max_bytes: 64 << 20,
            relay_max_bytes: 64 << 20,
            local_handover: true,
            subscriptions: None,
            tls: BrokerTls::default(),
        }
    }
}

/// The plugins folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginsConfig {
    /// Every `*.wasm` in it is a stage. Empty: there is no folder, which is the default of a
    /// configuration that is built in code; sources such as a file have the default `plugins`.
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
            dir: PathBuf::new(),
            debounce_ms: 100,
            policy: Policy::Open,
            digests: Vec::new(),
            publishers: Vec::new(),
            archive_dir: "data/plugins".into(),
        }
    }
}

/// Limits on events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// An event that has been due for this long is dead-lettered instead of processed.
    pub expiry_ms: u64,
    /// Longest chain of events, in stages.
    pub hops_max: u32,
    /// Most events that stages may emit in the chain that one event begins: the outcome that would
    /// exceed it is dead-lettered.
    pub chain_events_max: u64,
    /// Event types that other programs publish: no warning if no stage here emits them.
    pub external_event_types: Vec<String>,
    /// Subjects and events, also those that stages emit, may be scheduled at most this far ahead.
    pub schedule_max_ms: u64,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            expiry_ms: DAY_MS,
            hops_max: 64,
            chain_events_max: 10_000,
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
/// recording is deleted with its subject.
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

/// When finished subjects are deleted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Retention period of finished subjects and of events without a subject, counted from their last
    /// change; 0 keeps them forever.
    pub max_age_ms: u64,
    /// Time between two deletions.
    pub interval_ms: u64,
    /// Most subjects deleted in one transaction.
    pub batch: u32,
    /// Retention period of the audit log; 0 keeps it forever.
    pub audit_max_age_ms: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        Self {
            max_age_ms: 90 * DAY_MS,
            interval_ms: 60_000,
            batch: 100,
            audit_max_age_ms: 400 * DAY_MS,
        }
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
            auth: AuthConfig::default(),
            encryption: EncryptionConfig::default(),
            store: StoreConfig::default(),
            broker: BrokerConfig::default(),
            plugins: PluginsConfig::default(),
            runtime: RuntimeSettings::default(),
            subjects: subjects::built_in(),
            events: EventsConfig::default(),
            ingress: IngressConfig::default(),
            products: ProductsConfig::default(),
            recording: RecordingConfig::default(),
            retention: RetentionConfig::default(),
            shutdown: ShutdownConfig::default(),
            defaults: StageConfig::default(),
            stages: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// The settings of a stage: its own section, else the defaults.
    pub fn stage(&self, name: &str) -> &StageConfig {
        self.stages.get(name).unwrap_or(&self.defaults)
    }

    /// The kinds of subjects that are declared and enabled.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn kinds(&self) -> Result<Arc<SubjectKinds>, ConfigError> {
        let mut problems = Vec::new();
        let kinds = subjects::kinds(&self.subjects, &mut problems);
        if problems.is_empty() { Ok(Arc::new(kinds)) } else { Err(ConfigError(problems)) }
    }

    /// What other programs may send.
    pub(crate) fn allow_list(&self, kinds: &SubjectKinds) -> AllowList {
        AllowList::new(self.ingress.rules(), kinds, self.stock_events())
    }

    /// Types that the stage which counts products is told to act on, beside the host's own.
    fn stock_events(&self) -> BTreeSet<String> {
        let stage = self.stage(&self.products.stage);
        let settings = stage.settings.values().flat_map(|value| value.split(','));
        let consumed = stage.consumes.iter().flatten().map(String::as_str);
        let is_type = |text: &&str| {
            text.contains('.') && !text.contains(['*', '#']) && topic_problem(text).is_none()
        };
        settings.map(str::trim).chain(consumed).filter(is_type).map(str::to_owned).collect()
    }

    /// The limits on events of other programs.
    pub fn ingress(&self, kinds: &Arc<SubjectKinds>) -> IngressSettings {
        IngressSettings {
            kinds: Arc::clone(kinds),
            schedule_max_ms: self.events.schedule_max_ms,
            body_max_bytes: self.http.body_max_bytes,
            namespace: self.namespace.clone(),
            source: format!("/{}/events", self.namespace),
            allow: self.allow_list(kinds),
        }
    }

    /// The policy of a stage whose plugin has this description.
    pub fn stage_policy(&self, name: &Arc<str>, description: &Description) -> StagePolicy {
        let operator = self.stage(name);
        StagePolicy {
            name: Arc::clone(name),
            source: format!("/{}/stages/{name}", self.namespace),
            consumes: operator
                .consumes
                .clone()
                .unwrap_or_else(|| event_settings::handles(description, &operator.settings)),
            emits: description.emits.clone(),
            retry: operator.retry,
            hops_max: self.events.hops_max,
            chain_events_max: self.events.chain_events_max,
            expiry_ms: self.events.expiry_ms,
            delay_max_ms: self.events.schedule_max_ms,
        }
    }

    /// Reads `file` (or the default file where it exists, else the built-in defaults), then the
    /// environment, then the secrets.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(Sources::read(file, &Variables::of_process())?, Secrecy::Read)
    }

    /// The same without reading secrets, for commands that only show the configuration.
    pub fn declared(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(Sources::read(file, &Variables::of_process())?, Secrecy::Declare)
    }

    /// The defaults and the environment, without any file.
    pub fn without_file() -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        sources.override_with(&Variables::of_process());
        Self::from_sources(sources, Secrecy::Read)
    }

    /// Reads a TOML text, without the environment.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_sources(Sources::of_text(text)?, Secrecy::Read)
    }

    /// Reads `file` as [`Config::load`] does, with what is valid of it and every problem: files that
    /// it names and that do not exist are problems as well.
    pub fn check(file: Option<&Path>) -> Result<(Self, Vec<String>), ConfigError> {
        let sources = Sources::read(file, &Variables::of_process())?;
        let (config, mut problems) = Self::inspect(sources, Secrecy::Read);
        problems.extend(config.missing_files());
        Ok((config, problems))
    }

    /// Checks a configuration that was built or changed in code.
    ///
    /// # Errors
    /// Every problem, in the words in which it is reported for a configuration file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.find_problems(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    /// The same, and reads the secrets that no source has read.
    pub(crate) fn finish(&mut self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.find_problems(&mut problems);
        #[cfg(feature = "tls")]
        self.check_all_tls_files(&mut problems);
        self.read_all_secrets(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    fn read_all_secrets(&mut self, problems: &mut Vec<String>) {
        self.read_secrets("", problems);
        for (name, config) in &mut self.namespaces {
            config.read_secrets(&format!("{}.{name}.", namespaces::SECTION), problems);
        }
    }

    fn read_secrets(&mut self, place: &str, problems: &mut Vec<String>) {
        self.encryption.read(place, problems);
        for (name, stage) in &mut self.stages {
            if stage.secret_values.has_all(&stage.secrets) {
                continue;
            }
            let key = format!("{place}stages.{name}.secrets");
            stage.secret_values = Secrets::read(&stage.secrets, &key, problems);
        }
    }

    fn from_sources(sources: Sources, secrecy: Secrecy) -> Result<Self, ConfigError> {
        let (config, problems) = Self::inspect(sources, secrecy);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// What is valid of the sources, and every problem.
    fn inspect(mut sources: Sources, secrecy: Secrecy) -> (Self, Vec<String>) {
        let (mut config, found) = Self::extract(&sources.tree);
        let mut problems = std::mem::take(&mut sources.problems);
        problems.extend(found);
        config.find_problems(&mut problems);
        if secrecy == Secrecy::Read {
            #[cfg(feature = "tls")]
            config.check_all_tls_files(&mut problems);
            config.read_all_secrets(&mut problems);
        }
        config.warnings = std::mem::take(&mut sources.warnings);
        let problems = namespaces::without_inherited(problems, &sources.tree);
        let problems = sources.with_variables(problems);
        (config, problems)
    }

    /// The sections of a tree, and the values that do not fit them.
    fn extract(tree: &Dict) -> (Self, Vec<String>) {
        let mut reader = Reader { tree, problems: Vec::new() };
        reader.refuse_unknown_sections();
        let mut config = Self::sections(&mut reader);
        let plugins = tree.get("plugins").and_then(Value::as_dict);
        if plugins.is_none_or(|plugins| !plugins.contains_key("dir")) {
            config.plugins.dir = DEFAULT_PLUGINS_DIR.into();
        }
        config.namespaces = namespaces::read(tree, &config, &mut reader.problems);
        (config, reader.problems)
    }

    /// The sections of one namespace.
    fn sections(reader: &mut Reader<'_>) -> Self {
        let defaults: StageConfig = reader.section("defaults");
        Self {
            namespace: reader.value("namespace", DEFAULT_NAMESPACE.to_owned()),
            http: reader.section("http"),
            auth: reader.section("auth"),
            store: reader.section("store"),
            broker: reader.section("broker"),
            plugins: reader.section("plugins"),
            runtime: reader.section("runtime"),
            subjects: reader.subjects(),
            events: reader.section("events"),
            encryption: reader.section("encryption"),
            ingress: reader.section("ingress"),
            products: reader.section("products"),
            recording: reader.section("recording"),
            retention: reader.section("retention"),
            shutdown: reader.section("shutdown"),
            stages: reader.stages(&defaults),
            defaults,
            namespaces: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

/// Whether secrets are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    Read,
    Declare,
}
