//! What the global options select: a configuration, and a namespace of it.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::compiler;
use postrider::Config;

/// The options `--config` and `--namespace`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub(crate) config: Option<PathBuf>,
    pub(crate) namespace: Option<String>,
}

/// Every namespace of a configuration, with what precedes whatever is said of it: its name, if there
/// are several.
pub(crate) fn namespaces(config: Config) -> Vec<(String, Config)> {
    let all = config.into_namespaces();
    let several = all.len() > 1;
    let labelled = all.into_iter().map(|config| {
        let label = if several { format!("{}: ", config.namespace) } else { String::new() };
        (label, config)
    });
    labelled.collect()
}

impl Scope {
    /// The configuration of one namespace: the one that is named, or else the first.
    pub(crate) fn one(&self, mut config: Config) -> Result<Config> {
        config.runtime.compiler = compiler::program();
        let name = self.namespace.clone().unwrap_or_else(|| config.namespace.clone());
        config.into_namespace(&name).map_err(|why| anyhow!("--namespace: {why}"))
    }

    /// The same, but all namespaces if none is named.
    pub(crate) fn any(&self, mut config: Config) -> Result<Config> {
        config.runtime.compiler = compiler::program();
        if self.namespace.is_some() { self.one(config) } else { Ok(config) }
    }
}
