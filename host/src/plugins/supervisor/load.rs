//! Installs a plugin file that was compiled, linked and described, for every stage it serves.

use std::sync::Arc;

use super::install::Refused;
use super::refusals::Refusal;
use super::{PluginSupervisor, State, short};
use crate::pipeline::plugin_change::LoadedPlugin;
use crate::plugins::{RolledBackFile, WaitingFor};
use crate::runtime::{Linked, WasmStage};

/// A loaded plugin file that some stages refused.
pub(super) struct WaitingPlugin {
    plugin: LoadedPlugin,
    refused: Vec<(String, Refused)>,
}

/// The result of installing a file for some stages.
#[derive(Default)]
struct Installed {
    stages: Vec<String>,
    refused: Vec<(String, Refused)>,
}

impl PluginSupervisor {
    pub(super) async fn load(&self, state: &mut State, plugin: LoadedPlugin) {
        let names = self.services.pipeline.names_for(&plugin.file, &plugin.linked.description.name);
        let Installed { stages, refused } = self.install_all(&plugin, &names).await;
        // A stage whose new version was refused keeps its old one; so do all stages of a file of
        // which no stage was accepted.
        let kept = if stages.is_empty() { self.abandoned(&plugin.file, &[]) } else { names };
        for name in self.abandoned(&plugin.file, &kept) {
            self.stop(state, &name);
        }
        report_load(&plugin, &stages, &refused);
        self.record_refusals(&plugin, &refused).await;
        self.files.update(&plugin.file, |status| {
            if !stages.is_empty() || refused.is_empty() {
                status.stages = stages;
            }
            (status.error, status.waiting_for) = (joined(&refused, error), joined(&refused, cause));
            status.is_replaced = are_served(&refused);
            status.skipped_at_start &= !refused.is_empty() && !status.is_replaced;
            status.removed = false;
            status.reload_count += 1;
            let restored = |file: &RolledBackFile| *file.digest == *plugin.linked.digest;
            status.rolled_back = status.rolled_back.take().filter(restored);
        });
        if refused.is_empty() {
            state.waiting.remove(&plugin.file);
        } else {
            let file = plugin.file.clone();
            state.waiting.insert(file, WaitingPlugin { plugin, refused });
        }
    }

    /// Tries again to install what was refused.
    pub(super) async fn retry_waiting(&self, state: &mut State) {
        let may_pass = |waiting: &WaitingPlugin| {
            waiting.refused.iter().any(|(_, refused)| refused.waiting_for.retry_after(1).is_some())
        };
        let files: Vec<String> = state
            .waiting
            .iter()
            .filter(|(_, waiting)| may_pass(waiting))
            .map(|(file, _)| file.clone())
            .collect();
        for file in files {
            let Some(WaitingPlugin { plugin, refused }) = state.waiting.remove(&file) else {
                continue;
            };
            let names: Vec<String> = refused.iter().map(|(name, _)| name.clone()).collect();
            let again = self.install_all(&plugin, &names).await;
            if again.refused != refused {
                report_load(&plugin, &again.stages, &again.refused);
                self.record_refusals(&plugin, &again.refused).await;
                self.files.update(&file, |status| {
                    status.stages.extend(again.stages);
                    status.error = joined(&again.refused, error);
                    status.waiting_for = joined(&again.refused, cause);
                    status.is_replaced = are_served(&again.refused);
                    status.skipped_at_start &= !again.refused.is_empty() && !status.is_replaced;
                    status.reload_count += 1;
                });
            }
            if !again.refused.is_empty() {
                state.waiting.insert(file, WaitingPlugin { plugin, refused: again.refused });
            }
        }
    }

    /// Records what was refused because of the file.
    async fn record_refusals(&self, plugin: &LoadedPlugin, refused: &[(String, Refused)]) {
        for (_, Refused { error, waiting_for }) in refused {
            if *waiting_for == WaitingFor::Broker {
                continue;
            }
            let refusal = Refusal {
                file: &plugin.file,
                digest: Some(&plugin.linked.digest),
                error,
                waiting_for: &waiting_for.to_string(),
            };
            self.refusals.record(&self.services, refusal).await;
        }
    }

    async fn install_all(&self, plugin: &LoadedPlugin, names: &[String]) -> Installed {
        let mut installed = Installed::default();
        for name in names {
            match self.install_plugin(plugin, name).await {
                Ok(()) => installed.stages.push(name.clone()),
                Err(refused) => installed.refused.push((name.clone(), refused)),
            }
        }
        installed
    }

    async fn install_plugin(&self, plugin: &LoadedPlugin, name: &str) -> Result<(), Refused> {
        self.install_linked(&plugin.linked, name, Some(plugin.file.clone())).await
    }

    /// Makes a plugin serve the stage `name`, with the stage's limits and grants.
    pub async fn install_linked(
        &self,
        linked: &Linked,
        name: &str,
        file: Option<String>,
    ) -> Result<(), Refused> {
        let pipeline = &self.services.pipeline;
        let config = pipeline.config_of(name);
        linked.check_grants(name, &config.grants).map_err(|refused| Refused {
            error: format!("stage `{name}`: {refused}"),
            waiting_for: WaitingFor::Configuration(format!("a grant for stage `{name}`")),
        })?;
        let handler = WasmStage::new(linked, config.limits, config.instance_policy());
        let handler = Arc::new(handler.with_egress(pipeline.stage(name).egress.clone()));
        self.install(name, handler, file).await
    }
}

/// Whether another file serves each stage.
fn are_served(refused: &[(String, Refused)]) -> bool {
    let is_served = |refused: &Refused| matches!(refused.waiting_for, WaitingFor::StageName { .. });
    refused.iter().all(|(_, refused)| is_served(refused))
}

fn error(refused: &Refused) -> String {
    refused.error.clone()
}

fn cause(refused: &Refused) -> String {
    refused.waiting_for.to_string()
}

/// One text of all refusals; none if there is none.
fn joined(refused: &[(String, Refused)], text: fn(&Refused) -> String) -> Option<String> {
    let texts: Vec<String> = refused.iter().map(|(_, refused)| text(refused)).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn report_load(plugin: &LoadedPlugin, stages: &[String], refused: &[(String, Refused)]) {
    tracing::info!(
        file = %plugin.file,
        version = %plugin.linked.description.version,
        digest = %short(&plugin.linked.digest),
        stages = %stages.join(","),
        load_ms = plugin.load_time.as_millis() as u64,
        "plugin loaded"
    );
    for (_, Refused { error, waiting_for }) in refused {
        tracing::error!(file = %plugin.file, %error, %waiting_for, "plugin refused");
    }
}
