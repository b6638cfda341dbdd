//! Checks of the plugins folder: loads it as a host would, without opening the store or the broker.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Finding, Stages};
use crate::offline_host::OfflineHost;
use postrider::Config;

/// Returns the stages in the plugins folder, and the findings.
pub(super) async fn examine(config: &Config) -> (Stages, Vec<Finding>) {
    let dir = config.plugins.dir.display().to_string();
    if !config.plugins.dir.is_dir() {
        let remedy = "create the folder and add plugins, or set plugins.dir";
        return (
            Vec::new(),
            vec![Finding::problem("plugins", format!("{dir} is not a folder"), remedy)],
        );
    }
    let offline = match OfflineHost::load(config.clone()).await {
        Ok(offline) => offline,
        Err(error) => return (Vec::new(), vec![Finding::failed("plugins", error)]),
    };
    let app = offline.host.app();
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
        let remedy = "add a plugin: `cargo xtask plugins` builds the shipped ones, \
                      `postrider plugin new` creates one";
        findings.push(Finding::warning("plugins", format!("{dir} has no working plugin"), remedy));
    }
    let running: BTreeSet<&Arc<str>> = stages.iter().collect();
    for name in config.stages.keys().filter(|name| !running.contains(&Arc::from(name.as_str()))) {
        let remedy =
            format!("add its plugin to {dir}, or remove [stages.{name}] from the configuration");
        findings.push(Finding::warning(
            format!("stage {name}"),
            "configured, but no plugin runs it",
            remedy,
        ));
    }
    for warning in pipeline.topology().warnings {
        findings.push(Finding::warning(
            "pipeline",
            warning,
            "check for a missing plugin or a misspelt event type with `postrider topology`",
        ));
    }
    (stages, findings)
}
