//! Makes a handler serve a stage: checks that it may, declares the stage's queue, and swaps.

use std::sync::Arc;

use super::PluginSupervisor;
use crate::background::binding_sync::BindingSync;
use crate::broker::Binding;
use crate::domain::name::is_name;
use crate::pipeline::{Running, Stage, TopologyStage};
use crate::plugins::WaitingFor;
use crate::stage::event_settings;
use crate::stage::handler::StageHandler;
use crate::store::PluginLoad;

/// Why a handler does not serve a stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// What is wrong, and how to fix it.
    pub error: String,
    /// What has to change.
    #[cfg_attr(not(feature = "wasm"), allow(dead_code, reason = "only files wait"))]
    pub waiting_for: WaitingFor,
}

impl PluginSupervisor {
    /// Makes `handler` serve the stage `name`. The error says why it cannot.
    pub async fn install(
        &self,
        name: &str,
        handler: Arc<dyn StageHandler>,
        file: Option<String>,
    ) -> Result<(), Refused> {
        if !is_name(name) {
            let error =
                format!("`{name}` cannot name a stage: it must match [a-z][a-z0-9-]{{0,39}}");
            return Err(Refused { error, waiting_for: WaitingFor::Content });
        }
        let pipeline = &self.services.pipeline;
        let stage = pipeline.stage(name);
        // What the program itself installs is never replaced.
        let is_other = |running: &Arc<Running>| file.is_none() || running.file != file;
        if let Some(other) = stage.running().filter(is_other) {
            let owner = other.file.clone().unwrap_or_else(|| "the program itself".into());
            let error = format!(
                "stage `{name}` is served by {owner}: rename one of them, or give it a name of its own in the configuration"
            );
            let waiting_for = WaitingFor::StageName { stage: name.to_owned(), owner };
            return Err(Refused { error, waiting_for });
        }
        let (description, settings) = (handler.description(), &stage.config.settings);
        if let Some(problem) = event_settings::problem(description, settings) {
            let lacks = format!("other settings of stage `{name}`");
            let error = format!("stage `{name}`: {problem}");
            return Err(Refused { error, waiting_for: WaitingFor::Configuration(lacks) });
        }
        let patterns = pipeline.policy(&stage, &*handler).consumes;
        let binding = Binding { stage: Arc::clone(&stage.name), patterns: patterns.clone() };
        BindingSync::announce(&self.services, &binding).await;
        self.services.broker.declare(binding).await.map_err(|error| Refused {
            error: format!("its queue could not be declared: {error}"),
            waiting_for: WaitingFor::Broker,
        })?;
        pipeline.route(&stage, &patterns);
        self.record_load(&stage, &*handler).await;
        pipeline.swap(&stage, handler, file, self.services.clock.now_ms());
        for warning in pipeline.topology_of(&stage).iter().flat_map(TopologyStage::warnings) {
            tracing::warn!(stage = %name, "{warning}");
        }
        Ok(())
    }

    async fn record_load(&self, stage: &Stage, handler: &dyn StageHandler) {
        let load = PluginLoad {
            stage: stage.name.to_string(),
            digest: handler.digest().to_owned(),
            version: handler.description().version.clone(),
            host: self.services.host.to_string(),
            loaded_at_ms: self.services.clock.now_ms(),
        };
        if let Err(error) = self.services.store.record_plugin_load(load).await {
            tracing::warn!(stage = %stage.name, %error, "plugin load could not be recorded");
        }
    }
}
