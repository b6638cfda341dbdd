//! Installs a plugin file that was compiled, linked and described, for every stage it serves.

use std::sync::Arc;

use super::{PluginSupervisor, RolledBackFile, State, short};
use crate::pipeline::plugin_change::LoadedPlugin;
use crate::runtime::WasmStage;

impl PluginSupervisor {
    pub(super) async fn load(&self, state: &mut State, plugin: LoadedPlugin) {
        let pipeline = Arc::clone(&self.services.pipeline);
        let (mut stages, mut problems) = (Vec::new(), Vec::new());
        let names = pipeline.names_for(&plugin.file, &plugin.linked.description.name);
        for name in &names {
            let config = pipeline.config_of(name);
            if let Err(refused) = plugin.linked.check_grants(name, &config.grants) {
                problems.push(format!("stage `{name}`: {refused}"));
                continue;
            }
            let handler = WasmStage::new(&plugin.linked, config.limits, config.instance_policy());
            let handler = Arc::new(handler.with_egress(pipeline.stage(name).egress.clone()));
            match self.install(name, handler, Some(plugin.file.clone())).await {
                Ok(()) => stages.push(name.clone()),
                Err(problem) => problems.push(problem),
            }
        }
        // A stage whose new version was refused keeps its old one; so do all stages of a file of
        // which no stage was accepted.
        let kept = if stages.is_empty() { self.abandoned(&plugin.file, &[]) } else { names };
        for name in self.abandoned(&plugin.file, &kept) {
            self.stop(state, &name).await;
        }
        report_load(&plugin, &stages, &problems);
        self.files.update(&plugin.file, |status| {
            if !stages.is_empty() || problems.is_empty() {
                status.stages = stages;
            }
            status.error = (!problems.is_empty()).then(|| problems.join("; "));
            status.removed = false;
            status.reload_count += 1;
            let restored = |file: &RolledBackFile| *file.digest == *plugin.linked.digest;
            status.rolled_back = status.rolled_back.take().filter(restored);
        });
    }
}

fn report_load(plugin: &LoadedPlugin, stages: &[String], problems: &[String]) {
    tracing::info!(
        file = %plugin.file,
        version = %plugin.linked.description.version,
        digest = %short(&plugin.linked.digest),
        stages = %stages.join(","),
        load_ms = plugin.load_time.as_millis() as u64,
        "plugin loaded"
    );
    for problem in problems {
        tracing::error!(file = %plugin.file, error = %problem, "plugin refused");
    }
}
