//! What is wrong with a set-up, found before orders find it: the configuration, what it names, and
//! the machine.
//!
//! Bounds: every question has a time-out. Nothing is changed but the cache of compiled plugins; a
//! host may run meanwhile.

mod back_ends;
mod machine;
mod plugins;

use std::sync::Arc;

use serde::Serialize;

pub use self::plugins::Rehearsal;

use postrider::config::{Config, ConfigError};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The host runs, and something will not go as one may think.
    Warning,
    /// The host does not start, or a part of it does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at: a stable name, such as `store` or `plugin payment.wasm`.
    pub check: String,
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check: check.into(), found: found.into(), remedy: None }
    }

    fn warning(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    fn problem(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, ..Self::warning(check, found, remedy) }
    }

    /// The error's whole chain; what to do is in its words.
    fn failed(check: &str, error: impl Into<anyhow::Error>) -> Self {
        Self { level: Level::Problem, ..Self::ok(check, format!("{:#}", error.into())) }
    }
}

/// Looks at everything that a host with this configuration would stand on.
pub async fn examine(config: Result<Config, ConfigError>) -> Vec<Finding> {
    let config = match config {
        Ok(config) => config,
        Err(ConfigError(problems)) => {
            let remedy = "mend the file or the variable; `postrider config check` says the same";
            return problems
                .into_iter()
                .map(|problem| Finding::problem("config", problem, remedy))
                .collect();
        }
    };
    let mut findings =
        vec![Finding::ok("config", "every key is known, and every value within its bounds")];
    findings.extend(back_ends::store(&config).await);
    let (stages, of_plugins) = plugins::examine(&config).await;
    findings.extend(back_ends::broker(&config, &stages).await);
    findings.extend(of_plugins);
    findings.push(machine::address(&config.http.listen).await);
    findings.extend(machine::disk(&config));
    findings.push(machine::open_files());
    findings
}

/// Stages that the plugins folder makes.
type Stages = Vec<Arc<str>>;
