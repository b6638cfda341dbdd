//! Reads the configuration from a file and the environment, and reports what is wrong with them.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::de::DeserializeOwned;

use super::features;
use super::{ConfigError, DEFAULT_FILE, StageConfig};

/// A file and the environment.
pub(super) fn sources(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let figment = match file {
        Some(file) if !file.is_file() => {
            return Err(ConfigError(vec![format!("{}: file not found", file.display())]));
        }
        Some(file) => Figment::from(Toml::file_exact(file)),
        None => Figment::from(Toml::file(DEFAULT_FILE)),
    };
    // Only names with a section: orchestrators put names such as POSTRIDER_SERVICE_HOST into the
    // environment, which are not meant for this program.
    let environment =
        Env::prefixed("POSTRIDER_").filter(|name| name.as_str().contains("__")).split("__");
    Ok(well_known(figment, |name| std::env::var(name).ok())?.merge(environment))
}

/// Variables that many deployments set for other programs as well, and the keys that they stand
/// for.
///
/// `MAX_RETRY_ATTEMPTS` and `RETRY_DELAY_SECONDS` override the file for every stage.
pub(super) fn well_known(
    figment: Figment,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Figment, ConfigError> {
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
                figment = everywhere.iter().fold(figment, |all, place| {
                    all.merge((format!("{place}.retry.max_attempts"), attempts))
                });
            }
            Err(error) => problems
                .push(format!("MAX_RETRY_ATTEMPTS: `{text}` is not a number of attempts: {error}")),
        }
    }
    if let Some(text) = set("RETRY_DELAY_SECONDS") {
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => {
                let initial_ms = (seconds * 1_000.0) as u64;
                figment = everywhere.iter().fold(figment, |all, place| {
                    all.merge((format!("{place}.retry.initial_ms"), initial_ms))
                });
            }
            _ => problems.push(format!(
                "RETRY_DELAY_SECONDS: `{text}` is not a number of seconds between 0 and 86400"
            )),
        }
    }
    if problems.is_empty() { Ok(figment) } else { Err(ConfigError(problems)) }
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

/// Reads sections one by one, so that an error in one does not hide those in another.
pub(super) struct Reader<'a> {
    pub(super) figment: &'a Figment,
    pub(super) problems: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn refuse_unknown_sections(&mut self) {
        match self.figment.extract::<figment::value::Dict>() {
            Ok(all) => {
                let unknown = all.keys().filter(|key| !SECTIONS.contains(&key.as_str()));
                self.problems.extend(
                    unknown.map(|key| {
                        format!("{key}: unknown; expected one of {}", SECTIONS.join(", "))
                    }),
                );
                let missing = features::SECTIONS
                    .iter()
                    .filter(|(section, _)| all.contains_key(*section))
                    .filter_map(|(section, feature)| feature.problem(section));
                self.problems.extend(missing);
            }
            Err(errors) => self.problems.extend(errors.into_iter().map(|error| error.to_string())),
        }
    }

    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        if self.figment.find_value(key).is_err() {
            return default;
        }
        self.figment.extract_inner(key).unwrap_or_else(|errors| {
            self.note(key, errors);
            default
        })
    }

    pub(super) fn section<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        self.value(key, T::default())
    }

    pub(super) fn stages(&mut self, defaults: &StageConfig) -> BTreeMap<String, StageConfig> {
        let named: BTreeMap<String, figment::value::Value> = self.section("stages");
        let mut stages = BTreeMap::new();
        for (name, value) in named {
            let merged =
                Figment::from(Serialized::defaults(defaults)).merge(Serialized::defaults(value));
            match merged.extract() {
                Ok(stage) => _ = stages.insert(name, stage),
                Err(errors) => self.note(&format!("stages.{name}"), errors),
            }
        }
        stages
    }

    fn note(&mut self, key: &str, errors: figment::Error) {
        self.problems.extend(errors.into_iter().map(|error| {
            // `extract_inner` appends the section's own name to the path inside it.
            let inside = error.path.iter().map(String::as_str).filter(|part| *part != key);
            let place = std::iter::once(key).chain(inside).collect::<Vec<_>>().join(".");
            // The invalid value may be the secret itself.
            if error.path.iter().any(|part| part == "secrets") {
                return format!("{place}: must be {{ env = \"NAME\" }} or {{ file = \"/path\" }}");
            }
            format!("{place}: {}", error.kind)
        }));
    }
}
