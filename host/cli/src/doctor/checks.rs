//! Checks of an installation: the configuration, the store and broker, the plugins, and the machine.
//!
//! Every check has a timeout. The checks change nothing except the cache of compiled plugins, so
//! they can run beside a running host.

mod back_ends;
mod machine;
mod plugins;

use std::sync::Arc;

use serde::Serialize;

use crate::scope::namespaces;
use postrider::{Config, ConfigError};

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The check passed.
    Ok,
    /// The host runs, but may not behave as intended.
    Warning,
    /// The host does not start, or part of it does not work.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub level: Level,
    /// Stable name of the check, such as `store` or `plugin payment.wasm`.
    pub check: String,
    pub found: String,
    /// How to fix it, unless the check passed.
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

    /// A problem described by an error's whole chain, which includes what to do.
    fn failed(check: &str, error: impl Into<anyhow::Error>) -> Self {
        Self { level: Level::Problem, ..Self::ok(check, format!("{:#}", error.into())) }
    }
}

/// The findings about a configuration with problems.
pub(crate) fn invalid(ConfigError(problems): ConfigError) -> Vec<Finding> {
    let remedy = "fix the configuration file or environment variable";
    let problems = problems.into_iter();
    problems.map(|problem| Finding::problem("config", problem, remedy)).collect()
}

/// Runs every check for a configuration. What is found about one of several namespaces has its name.
pub(crate) async fn examine(config: Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("config", "valid")];
    let http = config.http.clone();
    let all = namespaces(config);
    for (label, config) in &all {
        let of_one = examine_namespace(config).await.into_iter();
        findings.extend(
            of_one.map(|finding| Finding { check: format!("{label}{}", finding.check), ..finding }),
        );
    }
    findings.push(machine::address(&http).await);
    findings.extend(machine::disk(all.iter().map(|(_, config)| config)));
    findings.push(machine::open_files());
    findings
}

async fn examine_namespace(config: &Config) -> Vec<Finding> {
    let mut findings = back_ends::store(config).await;
    let (stages, plugin_findings) = plugins::examine(config).await;
    findings.extend(back_ends::broker(config, &stages).await);
    findings.extend(plugin_findings);
    findings
}

/// Names of the stages in the plugins folder.
type Stages = Vec<Arc<str>>;
