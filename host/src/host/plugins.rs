//! Plugins of a host: those that were given as bytes, then the folder, if there is one.

#[cfg(feature = "wasm")]
use std::sync::Arc;

#[cfg(feature = "wasm")]
use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::BuildError;
use super::tasks::HostTasks;
#[cfg(feature = "wasm")]
use crate::config::{Config, ConfigError};
use crate::pipeline::plugin_change::PluginChange;
use crate::plugins::Candidates;
use crate::plugins::supervisor::PluginSupervisor;
#[cfg(feature = "wasm")]
use crate::plugins::watcher::{FolderOptions, PluginWatcher};
#[cfg(feature = "wasm")]
use crate::plugins::{PluginFiles, PluginPlaces};
#[cfg(feature = "wasm")]
use crate::runtime::Runtime;

/// What loading needs.
pub(super) struct PluginLoading<'a> {
    pub(super) supervisor: &'a PluginSupervisor,
    pub(super) changes: mpsc::Sender<PluginChange>,
    pub(super) tasks: &'a HostTasks,
    #[cfg_attr(not(feature = "wasm"), expect(dead_code, reason = "no engine is started"))]
    pub(super) candidates: &'a Candidates,
}

impl PluginLoading<'_> {
    /// Loads what was given as bytes, then what is in the folder. Without either, no engine is
    /// started.
    #[cfg(feature = "wasm")]
    pub(super) async fn load(
        self,
        config: &Config,
        given: Vec<(String, Bytes)>,
        places: &PluginPlaces,
        files: &Arc<PluginFiles>,
    ) -> Result<(), BuildError> {
        let has_folder = config.has_plugins_dir();
        if !has_folder && given.is_empty() {
            return self.finish_without_folder().await;
        }
        let runtime = Runtime::new(config.runtime.clone());
        let runtime = runtime.map_err(|error| BuildError::Engine(error.into()))?;
        self.tasks.start_epochs(&runtime);
        self.candidates.compile_beside(&runtime);
        for (name, wasm) in given {
            self.install(&runtime, &name, wasm).await?;
        }
        if !has_folder {
            return self.finish_without_folder().await;
        }
        let options = FolderOptions {
            dir: places.dir.clone(),
            debounce_ms: config.plugins.debounce_ms,
            provenance: config.plugins.provenance().map_err(ConfigError)?,
            archive: places.archive.clone(),
        };
        let watcher = PluginWatcher::new(options, runtime, Arc::clone(files), self.changes);
        self.tasks.start_plugin_watcher(watcher);
        Ok(self.tasks.or_failure(self.supervisor.finish_first_scan()).await?)
    }

    #[cfg(feature = "wasm")]
    async fn install(
        &self,
        runtime: &Arc<Runtime>,
        name: &str,
        wasm: Bytes,
    ) -> Result<(), BuildError> {
        let failed = |source| BuildError::Plugin { name: name.to_owned(), source };
        let linked = runtime.load(wasm).await.map_err(|error| failed(error.into()))?;
        let installed = self.supervisor.install_linked(&linked, name, None).await;
        installed.map_err(|refused| failed(refused.into()))
    }

    /// Reports that there are no files.
    pub(super) async fn finish_without_folder(self) -> Result<(), BuildError> {
        self.tasks.start_without_folder(self.changes);
        Ok(self.tasks.or_failure(self.supervisor.finish_first_scan()).await?)
    }
}
