//! The plugins folder, loaded as a host would load it, without its store and queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::{Finding, Stages};
use postrider::config::Config;
use postrider::host::Host;

/// A host with every plugin loaded, on a store and a queue that go away with it.
pub struct Rehearsal {
    /// The host; nobody runs it.
    pub host: Host,
    _scratch: tempfile::TempDir,
}

impl Rehearsal {
    /// Loads the plugins of a configuration.
    pub async fn of(mut config: Config) -> Result<Self> {
        let scratch = tempfile::tempdir().context("no temporary folder")?;
        config.store.url = format!("sqlite:{}/rehearsal.db", scratch.path().display());
        "embedded:".clone_into(&mut config.broker.url);
        config.plugins.archive_dir = scratch.path().join("kept");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let host = Host::builder(config).listener(listener).build().await?;
        Ok(Self { host, _scratch: scratch })
    }
}

/// What the folder makes, and what is wrong with it.
pub(super) async fn examine(config: &Config) -> (Stages, Vec<Finding>) {
    let dir = config.plugins.dir.display().to_string();
    if !config.plugins.dir.is_dir() {
        let remedy = "make the folder and put plugins into it, or set plugins.dir";
        return (
            Vec::new(),
            vec![Finding::problem("plugins", format!("{dir} is no folder"), remedy)],
        );
    }
    let rehearsal = match Rehearsal::of(config.clone()).await {
        Ok(rehearsal) => rehearsal,
        Err(error) => return (Vec::new(), vec![Finding::failed("plugins", error)]),
    };
    let app = rehearsal.host.app();
    let pipeline = &app.services().pipeline;
    let mut findings = Vec::new();
    for plugin in app.plugins() {
        let check = format!("plugin {}", plugin.file.as_deref().unwrap_or_default());
        findings.push(match (plugin.last_error, plugin.stage, plugin.version) {
            (Some(error), _, _) => Finding::failed(&check, anyhow::Error::msg(error)),
            (None, Some(stage), Some(version)) => {
                Finding::ok(check, format!("stage {stage} {version}"))
            }
            (None, _, _) => Finding::ok(check, plugin.state.as_str()),
        });
    }
    let stages: Stages = pipeline.consuming();
    if stages.is_empty() {
        let remedy = "put a stage into it: `cargo xtask plugins` builds the shipped ones, `postrider plugin new` makes one";
        findings.push(Finding::warning("plugins", format!("no stage comes of {dir}"), remedy));
    }
    let running: BTreeSet<&Arc<str>> = stages.iter().collect();
    for name in config.stages.keys().filter(|name| !running.contains(&Arc::from(name.as_str()))) {
        let remedy =
            format!("put its plugin into {dir}, or take [stages.{name}] out of the configuration");
        findings.push(Finding::warning(
            format!("stage {name}"),
            "it is configured, and no plugin runs it",
            remedy,
        ));
    }
    for warning in pipeline.topology().warnings {
        findings.push(Finding::warning(
            "pipeline",
            warning,
            "is a plugin missing, or the event type misspelt? See `postrider topology`",
        ));
    }
    (stages, findings)
}
