//! The configuration as operators may see it: without confidential values.
//!
//! Guarantee: a text is shown only if [`PLAIN`] has its key, and a table only if `PLAIN` has its key
//! or one inside of it; everything else is `***`. So a new key is masked until someone decides about
//! it. Of a text with `://`, the password and the values of the query are masked as well. Numbers and
//! switches are shown: no setting keeps a secret in one.

use serde_json::{Map, Value};

use super::subjects::built_in;
use super::{Config, DEFAULT_PLUGINS_DIR, SubjectConfig, namespaces, urls};

/// What stands in the place of a masked value.
const MASK: &str = "***";

/// Keys whose texts are shown, and tables whose numbers are; `*` is any name. The elements of a list
/// have the key of the list.
const PLAIN: &[&str] = &[
    "namespace",
    "http.listen",
    "http.allowed_hosts",
    "http.rate_limits",
    "http.cors.allowed_origins",
    "http.console.trace_url",
    "http.tls.cert_file",
    "http.tls.key_file",
    "http.tls.client_ca_file",
    "http.tls.client_certificates",
    "auth.mode",
    "auth.jwt.issuer",
    "auth.jwt.audience",
    "auth.jwt.algorithms",
    "auth.jwt.jwks_file",
    "auth.jwt.jwks_url",
    "auth.jwt.roles_claim",
    "auth.jwt.name_claim",
    "auth.jwt.roles.*",
    "auth.sessions",
    "encryption.key_file",
    "broker.subscriptions",
    "broker.tls.ca_file",
    "broker.tls.cert_file",
    "broker.tls.key_file",
    "plugins.dir",
    "plugins.policy",
    "plugins.digests",
    "plugins.publishers",
    "plugins.archive_dir",
    "runtime.cache_dir",
    "runtime.pool",
    "subjects.*.plural",
    "subjects.*.path",
    "subjects.*.body",
    "subjects.*.id_field",
    "subjects.*.id_pattern",
    "subjects.*.customer_field",
    "subjects.*.schema",
    "subjects.*.first_event",
    "subjects.*.cancel_event",
    "subjects.*.claims",
    "subjects.*.display",
    "subjects.*.status.transitions.*.status",
    "subjects.*.status.transitions.*.from",
    "subjects.*.status.terminal",
    "subjects.*.status.cancel.compensations",
    "subjects.*.status.cancel.observers",
    "subjects.*.status.cancel.done",
    "events.external_event_types",
    "ingress.allow",
    "ingress.allow.types",
    "ingress.allow.sources",
    "products.stage",
    "products.prefix",
    "recording",
    "retention",
    "shutdown",
    "stages.*.plugin",
    "stages.*.consumes",
    "stages.*.instances",
    "stages.*.warm",
    "stages.*.retry",
    "stages.*.breaker.unavailable",
    "stages.*.guard",
    "stages.*.limits",
    "stages.*.grants.http.scheme",
    "stages.*.grants.http.host",
    "stages.*.grants.http.methods",
    "stages.*.store.schema",
    "stages.*.store.role",
];

/// The URLs of connections: their passwords may have any form.
const STORE_URL: &str = "store.url";
const BROKER_URL: &str = "broker.url";

/// What is shown beside plain values, to those who may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The names of secrets of stages, and where each is read.
    SecretNames,
    /// The values of settings of stages: the host does not know what they mean.
    StageSettings,
}

impl Beside {
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::SecretNames => &["stages.*.secrets.*.env", "stages.*.secrets.*.file"],
            Self::StageSettings => &["stages.*.settings.*"],
        }
    }
}

/// A setting, as operators may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownSetting {
    /// Its key, such as `http.listen`.
    pub key: String,
    /// Its value; `***` in the place of what is masked.
    pub value: Value,
    /// Whether it differs from its default; for a stage, from `defaults`.
    pub changed: bool,
    /// Whether something of it is masked.
    pub masked: bool,
}

impl Config {
    /// The configuration with every default, and `***` in the place of confidential values.
    ///
    /// ```
    /// use postrider::Config;
    ///
    /// let mut config = Config::default();
    /// config.store.url = "postgres://orders:tiger@db/shop".into();
    /// let shown = config.masked(&[]);
    /// assert_eq!(shown["store"]["url"], "postgres://orders:***@db/shop");
    /// ```
    pub fn masked(&self, beside: &[Beside]) -> Value {
        mask(&mut Vec::new(), self.tree(), beside)
    }

    /// The same, one setting after the other.
    pub fn shown_settings(&self, beside: &[Beside]) -> Vec<ShownSetting> {
        let all = Comparison { values: self.tree(), defaults: default_tree() };
        let mut settings = Vec::new();
        all.flatten(&mut Vec::new(), &self.masked(beside), &mut settings);
        settings
    }

    fn tree(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The values of a configuration that says nothing.
fn default_tree() -> Value {
    let mut config = Config::default();
    config.plugins.dir = DEFAULT_PLUGINS_DIR.into();
    config.tree()
}

fn mask(path: &mut Vec<String>, value: Value, beside: &[Beside]) -> Value {
    match value {
        Value::Object(inside) if inside.is_empty() => Value::Object(inside),
        Value::Object(inside) if path.is_empty() || leads_to_plain(path, beside) => {
            let members = inside.into_iter().map(|(name, value)| {
                path.push(name.clone());
                let masked = mask(path, value, beside);
                path.pop();
                (name, masked)
            });
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Object(_) => MASK.into(),
        Value::Array(items) => items.into_iter().map(|item| mask(path, item, beside)).collect(),
        Value::String(text) => text_of(path, &text, beside).into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

fn text_of(path: &[String], text: &str, beside: &[Beside]) -> String {
    match &*key_of(path).join(".") {
        STORE_URL => urls::shown_store(text),
        BROKER_URL => urls::shown_url(text),
        _ if !is_plain(path, beside) => MASK.to_owned(),
        _ if text.contains("://") => urls::shown_url(text),
        _ => text.to_owned(),
    }
}

/// The key below a namespace, as `PLAIN` has it.
fn key_of(path: &[String]) -> Vec<&str> {
    let mut key: Vec<&str> = path.iter().map(String::as_str).collect();
    if key.first() == Some(&namespaces::SECTION) {
        key.drain(..key.len().min(2));
    }
    if key.first() == Some(&"defaults") {
        key.splice(..1, ["stages", "*"]);
    }
    key
}

fn keys(beside: &[Beside]) -> impl Iterator<Item = &'static str> {
    let more = beside.iter().flat_map(|one| one.keys());
    PLAIN.iter().chain(more).copied()
}

fn is_plain(path: &[String], beside: &[Beside]) -> bool {
    let key = key_of(path);
    keys(beside).any(|plain| plain.split('.').count() == key.len() && starts_with(plain, &key))
}

/// Whether the table has something that is shown, or is listed itself.
fn leads_to_plain(path: &[String], beside: &[Beside]) -> bool {
    let key = key_of(path);
    keys(beside).chain([STORE_URL, BROKER_URL]).any(|plain| starts_with(plain, &key))
}

fn starts_with(plain: &str, key: &[&str]) -> bool {
    let mut words = plain.split('.');
    key.iter().all(|name| words.next().is_some_and(|word| word == "*" || word == *name))
}

/// The values that are shown, and what they are compared with.
struct Comparison {
    values: Value,
    defaults: Value,
}

impl Comparison {
    fn flatten(&self, path: &mut Vec<String>, shown: &Value, settings: &mut Vec<ShownSetting>) {
        if let Value::Object(inside) = shown
            && (!inside.is_empty() || path.is_empty())
        {
            for (name, value) in inside {
                path.push(name.clone());
                self.flatten(path, value, settings);
                path.pop();
            }
            return;
        }
        let own = at(&self.values, path);
        settings.push(ShownSetting {
            key: path.join("."),
            value: shown.clone(),
            changed: own != self.default_of(path).as_ref(),
            masked: own != Some(shown),
        });
    }

    fn default_of(&self, path: &[String]) -> Option<Value> {
        match path {
            [section, _, rest @ ..] if section == "stages" => {
                at(&self.values["defaults"], rest).cloned()
            }
            [section, name, rest @ ..] if section == "subjects" => {
                let kind = built_in().remove(name);
                let kind = kind.unwrap_or_else(|| SubjectConfig::default().filled(name));
                at(&serde_json::to_value(kind).unwrap_or_default(), rest).cloned()
            }
            _ => at(&self.defaults, path).cloned(),
        }
    }
}

/// The value at a path.
fn at<'a>(tree: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |tree, name| tree.get(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::config::StageConfig;
    use crate::runtime::egress::HttpGrant;
    use crate::stage::settings::SecretSource;

    const MARKER: &str = "MARKER";

    /// `value` with the marker in every text, and in the place of what is not set.
    fn marked(value: Value) -> Value {
        match value {
            Value::Object(inside) => {
                let members = inside.into_iter().map(|(name, value)| (name, marked(value)));
                Value::Object(members.collect())
            }
            Value::Array(items) if items.is_empty() => vec![MARKER].into(),
            Value::Array(items) => items.into_iter().map(marked).collect(),
            Value::String(_) | Value::Null => MARKER.into(),
            other => other,
        }
    }

    /// The keys whose texts are shown, of a configuration that has everything.
    fn shown_keys(beside: &[Beside]) -> BTreeSet<Vec<String>> {
        let mut config = Config::default();
        config.auth.jwt.roles.insert("staff".into(), Vec::new());
        let mut stage = StageConfig::default();
        stage.settings.insert("a".into(), String::new());
        stage.grants.http.push(HttpGrant::default());
        let token = SecretSource { env: Some(String::new()), file: Some(PathBuf::new()) };
        stage.secrets.insert("token".into(), token);
        config.stages.insert("payment".into(), stage);
        let mut found = BTreeSet::new();
        find_marker(
            &mut Vec::new(),
            &mask(&mut Vec::new(), marked(config.tree()), beside),
            &mut found,
        );
        found
    }

    /// The keys of the texts with the marker.
    fn find_marker(path: &mut Vec<String>, value: &Value, found: &mut BTreeSet<Vec<String>>) {
        match value {
            Value::Object(inside) => {
                for (name, value) in inside {
                    path.push(name.clone());
                    find_marker(path, value, found);
                    path.pop();
                }
            }
            Value::Array(items) => items.iter().for_each(|item| find_marker(path, item, found)),
            value if value.to_string().contains(MARKER) => _ = found.insert(path.clone()),
            _ => {}
        }
    }

    #[test]
    fn only_listed_texts_are_shown() {
        for path in shown_keys(&[]) {
            assert!(is_plain(&path, &[]), "{path:?}");
            for hidden in ["url", "key_command", "settings", "secrets"] {
                assert!(!path.iter().any(|name| name == hidden), "{path:?}");
            }
        }
        let more = shown_keys(&[Beside::SecretNames, Beside::StageSettings]);
        for key in ["stages.payment.secrets.token.env", "stages.payment.settings.a"] {
            assert!(more.iter().any(|path| path.join(".") == key), "{key}: {more:?}");
        }
    }

    #[test]
    fn a_key_that_nobody_decided_about_is_masked() {
        let tree = serde_json::json!({
            "http": { "listen": "a:1", "new_key": "secret", "new_table": { "secret": 1 } },
            "new_section": { "key": "secret" },
            "stages": { "payment": { "lanes": 2, "new_key": ["secret"] } },
            "namespaces": { "shop": { "broker": { "new_key": "secret", "queue_capacity": 3 } } },
        });
        let expected = serde_json::json!({
            "http": { "listen": "a:1", "new_key": "***", "new_table": "***" },
            "new_section": "***",
            "stages": { "payment": { "lanes": 2, "new_key": ["***"] } },
            "namespaces": { "shop": { "broker": { "new_key": "***", "queue_capacity": 3 } } },
        });
        assert_eq!(mask(&mut Vec::new(), tree, &[]), expected);
    }

    #[test]
    fn every_listed_key_exists() {
        let shown = shown_keys(&[]);
        // They have numbers only.
        let tables = [
            "http.rate_limits",
            "auth.sessions",
            "recording",
            "retention",
            "shutdown",
            "stages.*.warm",
            "stages.*.retry",
            "stages.*.guard",
            "stages.*.limits",
        ];
        // Its elements are texts or tables, and the default has texts.
        let rules = ["ingress.allow.types", "ingress.allow.sources"];
        let unfilled = |plain: &&&str| !tables.contains(*plain) && !rules.contains(*plain);
        for plain in PLAIN.iter().filter(unfilled) {
            let found = shown.iter().any(|path| {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                path.len() == plain.split('.').count() && starts_with(plain, &path)
            });
            assert!(found, "{plain}: {shown:#?}");
        }
    }

    #[test]
    fn changed_settings_are_told_from_defaults() {
        let config = Config::from_toml(
            "store.lease_ms = 20000\n[defaults]\nlanes = 2\n[stages.payment]\nbatch_max = 7\n\
             [subjects.ticket]\nplural = \"slips\"\n",
        );
        let settings = config.unwrap().shown_settings(&[]);
        let changed = settings.iter().filter(|one| one.changed).map(|one| &*one.key);
        let expected = [
            "defaults.lanes",
            "stages.payment.batch_max",
            "store.lease_ms",
            "subjects.ticket.path",
            "subjects.ticket.plural",
        ];
        let mut changed: Vec<&str> = changed.collect();
        changed.sort_unstable();
        assert_eq!(changed, expected);
    }
}
