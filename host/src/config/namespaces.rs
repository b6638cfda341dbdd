//! Further namespaces of a process: `[namespaces.<name>]` has the sections of the top level, without
//! what belongs to the process.
//!
//! [`Config::beside`] is the only place that says what a namespace inherits: where its data and its
//! events are kept and how much it may use, but nothing that describes its pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use serde::{Serialize, Serializer};

use super::reader::Reader;
use super::sources::{merge, value_at};
use super::subjects::built_in;
use super::{Config, EventsConfig, PluginsConfig, ProductsConfig, StoreConfig, StoreUrl};
use crate::domain::name::is_name;

/// The section of further namespaces.
pub(super) const SECTION: &str = "namespaces";
/// Keys that belong to the process.
const OF_PROCESS: [&[&str]; 15] = [
    &["http", "listen"],
    &["http", "allowed_hosts"],
    &["http", "cors"],
    &["http", "console"],
    &["http", "tls"],
    &["http", "connections_max"],
    &["http", "head_timeout_ms"],
    &["http", "idle_timeout_ms"],
    &["http", "stall_timeout_ms"],
    &["http", "rate_limits", "per_address_per_s"],
    &["http", "rate_limits", "per_address_burst"],
    &["runtime"],
    &["shutdown"],
    &[SECTION],
    &["namespace"],
];

impl Config {
    /// The configuration of the namespace `name`, beside this one in the same process: as an empty
    /// `[namespaces.<name>]` would be. It has no stages.
    ///
    /// ```
    /// use postrider::Config;
    ///
    /// let mut config = Config::default();
    /// let mut shop = config.beside("shop");
    /// shop.stages.entry("payment".into()).or_default().lanes = 4;
    /// config.namespaces.insert("shop".to_owned(), shop);
    /// assert!(config.validate().is_ok());
    /// ```
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self {
            namespace: name.to_owned(),
            http: self.http.clone(),
            auth: self.auth.clone(),
            store: StoreConfig { url: store_beside(&self.store.url, name), ..self.store.clone() },
            broker: self.broker.clone(),
            plugins: PluginsConfig {
                dir: below(&self.plugins.dir, name),
                archive_dir: below(&self.plugins.archive_dir, name),
                ..self.plugins.clone()
            },
            runtime: self.runtime.clone(),
            subjects: built_in(),
            events: EventsConfig {
                external_event_types: EventsConfig::default().external_event_types,
                ..self.events.clone()
            },
            encryption: self.encryption.clone(),
            ingress: self.ingress.clone(),
            products: ProductsConfig::default(),
            recording: self.recording,
            retention: self.retention,
            shutdown: self.shutdown.clone(),
            defaults: self.defaults.clone(),
            stages: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes the further namespaces out, each with the settings of the process.
    pub(crate) fn take_namespaces(&mut self) -> BTreeMap<String, Self> {
        let mut namespaces = std::mem::take(&mut self.namespaces);
        for config in namespaces.values_mut() {
            config.http = config.http.within(&self.http);
            config.runtime = self.runtime.clone();
            config.shutdown = self.shutdown.clone();
        }
        namespaces
    }

    /// The configuration of each namespace of this process by itself, the first one first.
    pub fn into_namespaces(mut self) -> Vec<Self> {
        let further = self.take_namespaces();
        std::iter::once(self).chain(further.into_values()).collect()
    }

    /// The configuration of one namespace by itself.
    ///
    /// # Errors
    /// There is no namespace of this name; the message has those that there are.
    pub fn into_namespace(self, name: &str) -> Result<Self, String> {
        let warnings = self.warnings.clone();
        let all = self.into_namespaces();
        let known: Vec<&str> = all.iter().map(|config| config.namespace.as_str()).collect();
        let unknown = format!("no namespace `{name}`: the configuration has {}", known.join(", "));
        let found = all.into_iter().find(|config| config.namespace == name);
        found.map(|config| Self { warnings, ..config }).ok_or(unknown)
    }

    /// Adds the problems of further namespaces to `problems`, each with its key.
    pub(super) fn find_problems_of_namespaces(&self, problems: &mut Vec<String>) {
        for (name, config) in &self.namespaces {
            let place = format!("{SECTION}.{name}");
            if !is_name(name) {
                problems.push(format!("{place}: the name must match [a-z][a-z0-9-]{{0,39}}"));
            }
            if *name == self.namespace {
                problems.push(format!(
                    "{place}: the top level has this name (`namespace`): use another"
                ));
            }
            if config.namespace != *name {
                let found = &config.namespace;
                problems.push(format!("{place}.namespace: `{found}` must be `{name}`"));
            }
            if !config.namespaces.is_empty() {
                problems.push(of_process(&place, &[SECTION]));
            }
            let mut found = Vec::new();
            config.find_problems_of_pipeline(&mut found);
            config.validate_anonymous(&self.http.listen, &mut found);
            problems.extend(found.into_iter().map(|problem| format!("{place}.{problem}")));
        }
        self.find_shared(problems);
    }

    /// Reports what two namespaces cannot share: a file of the store, or a plugins folder, where a
    /// rollback of one would replace the plugin of the other.
    fn find_shared(&self, problems: &mut Vec<String>) {
        let mut stores: BTreeMap<PathBuf, &str> = BTreeMap::new();
        let mut folders: BTreeMap<PathBuf, &str> = BTreeMap::new();
        let first = (self.namespace.as_str(), self);
        let further = self.namespaces.iter().map(|(name, config)| (name.as_str(), config));
        for (name, config) in std::iter::once(first).chain(further) {
            let file = config.store_file().map(|file| ("store.url", file, &mut stores));
            let folder = config.has_plugins_dir().then_some(&config.plugins.dir);
            let folder = folder.map(|dir| ("plugins.dir", absolute(dir), &mut folders));
            for (key, path, taken) in file.into_iter().chain(folder) {
                let shown = path.display().to_string();
                if let Some(other) = taken.insert(path, name) {
                    problems.push(format!(
                        "{SECTION}.{name}.{key}: {shown} is that of the namespace `{other}`: use \
                         another"
                    ));
                }
            }
        }
    }

    /// The file of an SQLite store.
    fn store_file(&self) -> Option<PathBuf> {
        match StoreUrl::parse(&self.store.url)? {
            StoreUrl::Sqlite(path) => Some(absolute(Path::new(path))),
            StoreUrl::Postgres(_) => None,
        }
    }
}

/// Without a database that namespaces can share, a file beside the first.
fn store_beside(url: &str, name: &str) -> String {
    match StoreUrl::parse(url) {
        Some(StoreUrl::Sqlite(path)) => {
            let file = Path::new(path).with_file_name(format!("{name}.db"));
            format!("sqlite:{}", file.display())
        }
        _ => url.to_owned(),
    }
}

/// A folder inside `folder`; none if that is none.
fn below(folder: &Path, name: &str) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::new() } else { folder.join(name) }
}

/// The same place always has the same path, unless there are symbolic links.
fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            std::path::Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// The problem with a key that belongs to the process.
fn of_process(place: &str, key: &[&str]) -> String {
    let key = key.join(".");
    match key.as_str() {
        SECTION => format!("{place}.{key}: a namespace has no namespaces: move it to [{SECTION}]"),
        "namespace" => {
            format!("{place}.{key}: the table's name is the namespace's: remove the key")
        }
        _ => format!("{place}.{key}: belongs to the process: set `{key}` at the top level"),
    }
}

/// Reads the further namespaces of a tree whose top level is `first`.
pub(super) fn read(
    tree: &Dict,
    first: &Config,
    problems: &mut Vec<String>,
) -> BTreeMap<String, Config> {
    let named = match tree.get(SECTION) {
        None => return BTreeMap::new(),
        Some(Value::Dict(_, named)) => named,
        Some(_) => {
            problems.push(format!("{SECTION}: must be a table: [{SECTION}.<name>]"));
            return BTreeMap::new();
        }
    };
    let mut namespaces = BTreeMap::new();
    for (name, value) in named {
        let place = format!("{SECTION}.{name}");
        let Value::Dict(_, own) = value else {
            problems.push(format!("{place}: must be a table: [{place}]"));
            continue;
        };
        let (config, found) = read_one(own.clone(), &place, first.beside(name));
        problems.extend(found);
        namespaces.insert(name.clone(), config);
    }
    namespaces
}

/// The sections of a namespace on top of what it inherits.
fn read_one(mut own: Dict, place: &str, inherited: Config) -> (Config, Vec<String>) {
    let mut problems = Vec::new();
    for key in OF_PROCESS {
        if take(&mut own, key) {
            problems.push(of_process(place, key));
        }
    }
    let mut reader = Reader { tree: &own, problems: Vec::new() };
    reader.refuse_unknown_sections();
    let mut found = reader.problems;
    let below = Value::serialize(&inherited).expect("settings are plain values");
    let Value::Dict(tag, mut below) = below else { return (inherited, problems) };
    // A kind is read on top of its own defaults.
    below.remove("subjects");
    let Value::Dict(_, tree) = merge(Value::Dict(tag, below), Value::from(own)) else {
        return (inherited, problems);
    };
    let mut reader = Reader { tree: &tree, problems: Vec::new() };
    let config = Config::sections(&mut reader);
    found.extend(reader.problems);
    problems.extend(found.into_iter().map(|problem| format!("{place}.{problem}")));
    (config, problems)
}

/// Takes a key out of a tree; whether it was there.
fn take(tree: &mut Dict, key: &[&str]) -> bool {
    match key {
        [last] => tree.remove(*last).is_some(),
        [first, rest @ ..] => match tree.get_mut(*first) {
            Some(Value::Dict(_, inner)) => take(inner, rest),
            _ => false,
        },
        [] => false,
    }
}

/// Leaves out what namespaces report only because they inherited it.
pub(super) fn without_inherited(problems: Vec<String>, tree: &Dict) -> Vec<String> {
    let is_inherited = |problem: &String| {
        let of_one = problem.strip_prefix(SECTION).and_then(|all| all.strip_prefix('.'));
        let Some((_, of_first)) = of_one.and_then(|all| all.split_once('.')) else { return false };
        let key = problem.split([':', '[']).next().unwrap_or_default();
        let is_own = value_at(tree, key.split('.')).is_some();
        !is_own && problems.iter().any(|other| other == of_first)
    };
    problems.iter().filter(|problem| !is_inherited(problem)).cloned().collect()
}

/// Shows what can be set: not what belongs to the process.
pub(super) fn serialize<S: Serializer>(
    namespaces: &BTreeMap<String, Config>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let shown = namespaces.iter().map(|(name, config)| {
        let mut shown = serde_json::to_value(config).map_err(serde::ser::Error::custom)?;
        for (key, outside) in OF_PROCESS.iter().filter_map(|key| key.split_last()) {
            let inside = outside.iter().try_fold(&mut shown, |value, key| value.get_mut(*key));
            if let Some(section) = inside.and_then(serde_json::Value::as_object_mut) {
                section.remove(*key);
            }
        }
        Ok((name, shown))
    });
    shown.collect::<Result<BTreeMap<_, _>, S::Error>>()?.serialize(serializer)
}

#[cfg(test)]
mod tests;
