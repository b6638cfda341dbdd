//! Starts the WebAssembly engine and the watcher of the plugins folder.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::tasks::HostTasks;
use crate::config::Config;
use crate::pipeline::plugin_change::PluginChange;
use crate::plugins::watcher::{FolderOptions, PluginWatcher};
use crate::plugins::{PluginFiles, PluginPlaces};
use crate::runtime::Runtime;

pub(super) fn watch(
    config: &Config,
    places: &PluginPlaces,
    files: Arc<PluginFiles>,
    changes: mpsc::Sender<PluginChange>,
    tasks: &HostTasks,
) -> anyhow::Result<()> {
    let runtime = Runtime::new(config.runtime.clone())
        .context("the WebAssembly engine could not be started")?;
    tasks.start_epochs(&runtime);
    let provenance = config.plugins.provenance();
    let options = FolderOptions {
        dir: places.dir.clone(),
        debounce_ms: config.plugins.debounce_ms,
        provenance: provenance.map_err(|problems| anyhow::anyhow!(problems.join("; ")))?,
        archive: places.archive.clone(),
    };
    tasks.start_plugin_watcher(PluginWatcher::new(options, runtime, files, changes));
    Ok(())
}
