//! Where a stage keeps its state: `[stages.<name>.store]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Config, StageConfig, StoreUrl};
use crate::domain::state_place::{StatePlace, StatePlaces};

/// Longest name that Postgres keeps, in bytes.
const NAME_MAX_BYTES: usize = 63;

/// Where a stage keeps its state.
///
/// ```
/// use postrider::{Config, StageStoreConfig};
///
/// let mut config = Config::default();
/// config.store.url = "postgres://localhost/shop".into();
/// let payment = config.stages.entry("payment".into()).or_default();
/// payment.store = StageStoreConfig { schema: Some("payment".into()), role: None };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageStoreConfig {
    /// A schema of Postgres that belongs to this stage; none: the tables of the namespace.
    pub schema: Option<String>,
    /// The role that owns the table in this schema, and with whose permissions it is read and
    /// written; none: the host's own.
    pub role: Option<String>,
}

impl StageStoreConfig {
    fn validate(&self, key: &str, problems: &mut Vec<String>) {
        if let Some(problem) = self.schema.as_deref().and_then(schema_problem) {
            problems.push(format!("{key}.schema: {problem}"));
        }
        if let Some(problem) = self.role.as_deref().and_then(role_problem) {
            problems.push(format!("{key}.role: {problem}"));
        }
        if self.role.is_some() && self.schema.is_none() {
            problems.push(format!("{key}.role: set {key}.schema as well: a role owns a schema"));
        }
    }
}

impl Config {
    /// The stages whose state has a place of its own.
    pub fn state_places(&self) -> StatePlaces {
        let places = self.stages.iter().filter_map(|(name, stage)| {
            let schema = stage.store.schema.clone()?;
            Some((name.clone(), StatePlace { schema, role: stage.store.role.clone() }))
        });
        places.collect()
    }

    /// Leaves the state of every stage in the common table: for stores that are not the configured one.
    pub fn clear_state_places(&mut self) {
        for stage in self.stages.values_mut() {
            stage.store = StageStoreConfig::default();
        }
    }

    pub(super) fn validate_state_places(&self, problems: &mut Vec<String>) {
        let StageStoreConfig { schema, role } = &self.defaults.store;
        for (name, given) in [("schema", schema), ("role", role)] {
            if given.is_some() {
                problems.push(format!(
                    "defaults.store.{name}: must be set per stage, under [stages.<name>.store]"
                ));
            }
        }
        let is_sqlite = matches!(StoreUrl::parse(&self.store.url), Some(StoreUrl::Sqlite(_)));
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, StageConfig { store, .. }) in &self.stages {
            let key = format!("stages.{name}.store");
            store.validate(&key, problems);
            let Some(schema) = &store.schema else { continue };
            if is_sqlite {
                problems.push(format!("{key}.schema: needs Postgres: store.url is an SQLite file"));
            }
            if let Some(owner) = owners.insert(schema, name) {
                problems.push(format!(
                    "{key}.schema: `{schema}` is the schema of the stage `{owner}`: name another one"
                ));
            }
        }
    }
}

/// Why this is not the name of a stage's schema. It can be written without quotes.
fn schema_problem(name: &str) -> Option<String> {
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let valid = name.len() <= NAME_MAX_BYTES
        && name.bytes().all(named)
        && name.starts_with(|first: char| !first.is_ascii_digit());
    if !valid {
        return Some(format!("`{name}` must match [a-z_][a-z0-9_]{{0,62}}"));
    }
    let reserved = ["pg_", "postrider_"].into_iter().any(|prefix| name.starts_with(prefix));
    let is_reserved = reserved || ["public", "information_schema"].contains(&name);
    is_reserved.then(|| format!("`{name}` is reserved: name a schema that only this stage uses"))
}

/// Why this is not the name of a role.
fn role_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES || name.contains(char::is_control) {
        return Some(format!("`{name}` must have 1 to {NAME_MAX_BYTES} bytes of text"));
    }
    let is_reserved = name.starts_with("pg_") || ["public", "none"].contains(&name);
    is_reserved
        .then(|| format!("`{name}` is reserved by Postgres: name a role that owns the schema"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTGRES: &str = "store.url = \"postgres://db/shop\"\n";

    fn problems(text: &str) -> Vec<String> {
        Config::from_toml(text).unwrap_err().0
    }

    #[test]
    fn a_stage_has_a_schema_and_a_role() {
        let text = format!(
            "{POSTGRES}[stages.payment.store]\nschema = \"payment\"\nrole = \"svc-payment\"\n\
             [stages.shipping]\nlanes = 2\n"
        );
        let config = Config::from_toml(&text).unwrap();
        let place = StatePlace { schema: "payment".into(), role: Some("svc-payment".into()) };
        assert_eq!(config.state_places(), StatePlaces::from([("payment".to_owned(), place)]));
        assert_eq!(config.shared_settings()["stages.payment.store.schema"], "\"payment\"");
    }

    #[test]
    fn every_problem_is_reported_with_its_key() {
        let text = format!(
            "{POSTGRES}[defaults.store]\nschema = \"all\"\n[stages.a.store]\nschema = \"Pay-ments\"\n\
             role = \"none\"\n[stages.b.store]\nschema = \"same\"\n[stages.c.store]\nschema = \"same\"\n\
             role = \"\"\n"
        );
        let found = problems(&text);
        for expected in [
            "defaults.store.schema: must be set per stage, under [stages.<name>.store]",
            "stages.a.store.schema: `Pay-ments` must match [a-z_][a-z0-9_]{0,62}",
            "stages.a.store.role: `none` is reserved by Postgres: name a role that owns the schema",
            "stages.c.store.schema: `same` is the schema of the stage `b`: name another one",
            "stages.c.store.role: `` must have 1 to 63 bytes of text",
        ] {
            assert!(found.iter().any(|problem| problem == expected), "{expected}: {found:#?}");
        }
        let text = "[stages.a.store]\nrole = \"svc\"\n[stages.b.store]\nschema = \"b\"\n";
        assert_eq!(
            problems(text),
            [
                "stages.a.store.role: set stages.a.store.schema as well: a role owns a schema",
                "stages.b.store.schema: needs Postgres: store.url is an SQLite file",
            ]
        );
    }

    #[test]
    fn names_of_schemas_are_plain_and_not_reserved() {
        for valid in ["payment", "_p1", &"a".repeat(63)] {
            assert_eq!(schema_problem(valid), None, "{valid}");
        }
        for invalid in [
            "",
            "1a",
            "a-b",
            "a.b",
            "A",
            "a\"b",
            "public",
            "pg_x",
            "information_schema",
            "postrider_shop",
            &"a".repeat(64),
        ] {
            assert!(schema_problem(invalid).is_some(), "{invalid}");
        }
    }
}
