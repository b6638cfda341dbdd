//! The plugin supervisor: turns changes in the plugins folder into stages that start, swap or stop.
//!
//! A bad plugin never replaces a good one: a file arrives here only after it was compiled, linked
//! and described. Its errors are shown beside the file's name, while the old version keeps serving.
//! Bindings are added before a new version starts. Removing a plugin stops the consumption; the
//! queue and its messages stay.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::background::binding_sync::BindingSync;
use crate::background::supervisor::TaskGroup;
use crate::background::task::{Task, TaskName};
use crate::broker::Binding;
use crate::domain::event::PLUGIN_ROLLED_BACK;
use crate::domain::name::is_name;
use crate::pipeline::plugin_change::PluginChange;
use crate::pipeline::{Stage, TopologyStage};
use crate::runtime::provenance::PluginArchive;
use crate::services::Services;
use crate::stage::event_settings;
use crate::stage::handler::StageHandler;
use crate::store::PluginLoad;
use crate::worker::StageWorker;
use crate::worker::poison_messages::PoisonMessageHandler;

#[cfg(feature = "wasm")]
mod load;

/// The state of one plugin file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileStatus {
    /// Stages it serves.
    pub stages: Vec<String>,
    /// Why the newest content of the file does not serve.
    pub error: Option<String>,
    /// The file is gone.
    pub removed: bool,
    /// How many times the host has loaded it, or failed to.
    pub reload_count: u64,
    /// Set after a newer version trapped too often, until other content is loaded.
    pub rolled_back: Option<RolledBackFile>,
}

/// The outcome of an automatic rollback.
#[derive(Debug, Clone, Serialize)]
pub struct RolledBackFile {
    /// SHA-256 of the version that serves again.
    pub digest: String,
    /// What was rolled back and why.
    pub note: String,
}

/// Where plugin files and their earlier versions are.
#[derive(Debug, Clone)]
pub struct PluginPlaces {
    /// The plugins folder.
    pub dir: PathBuf,
    /// Versions that were loaded before.
    pub archive: PluginArchive,
}

impl PluginPlaces {
    /// Replaces a plugin file with an archived version.
    pub async fn restore(&self, digest: &str, file: &str) -> std::io::Result<()> {
        let (archive, path, digest) =
            (self.archive.clone(), self.dir.join(file), digest.to_owned());
        tokio::task::spawn_blocking(move || archive.restore(&digest, &path)).await?
    }
}

/// The state of every plugin file, shared with the API.
#[derive(Default)]
pub struct PluginFiles(Mutex<BTreeMap<String, FileStatus>>);

impl PluginFiles {
    /// All files by name.
    pub fn all(&self) -> BTreeMap<String, FileStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, file: &str, change: impl FnOnce(&mut FileStatus)) {
        change(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(file.to_owned())
                .or_default(),
        );
    }
}

/// Starts, swaps and stops stages.
pub struct PluginSupervisor {
    services: Services,
    files: Arc<PluginFiles>,
    places: PluginPlaces,
    /// Workers run in it, a group for each stage.
    tasks: TaskGroup,
    /// Survives a restart of the task.
    state: tokio::sync::Mutex<State>,
}

struct State {
    changes: mpsc::Receiver<PluginChange>,
    workers: HashMap<Arc<str>, TaskGroup>,
    /// The file whose change is being applied.
    applying: Option<String>,
}

impl PluginSupervisor {
    /// A supervisor that applies `changes`, and runs workers in `tasks`.
    pub fn new(
        services: Services,
        files: Arc<PluginFiles>,
        places: PluginPlaces,
        tasks: TaskGroup,
        changes: mpsc::Receiver<PluginChange>,
    ) -> Self {
        let state = State { changes, workers: HashMap::new(), applying: None };
        Self { services, files, places, tasks, state: tokio::sync::Mutex::new(state) }
    }

    /// Applies changes until the first scan of the folder is complete.
    pub async fn finish_first_scan(&self) {
        let state = &mut *self.state.lock().await;
        while let Some(change) = state.changes.recv().await {
            if matches!(change, PluginChange::ScanComplete) {
                return;
            }
            self.apply(state, change).await;
        }
    }

    /// Runs workers for every stage, and applies changes until cancelled. The workers are tasks of
    /// their own: they outlive a restart of this one, and stop with their group.
    pub async fn run(&self, cancel: CancellationToken) {
        let state = &mut *self.state.lock().await;
        if let Some(file) = state.applying.take() {
            // Applying it once more could fail once more; what served before keeps serving.
            let error = "the host failed while it applied the change; replace the file to retry";
            tracing::error!(%file, error, "the plugin was refused");
            self.files.update(&file, |status| status.error = Some(error.to_owned()));
        }
        self.start_workers(state);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(change) = state.changes.recv() => {
                    self.apply(state, change).await;
                    self.start_workers(state);
                }
                // The folder is no longer watched.
                else => return cancel.cancelled().await,
            }
        }
    }

    /// Makes `handler` serve the stage `name`. The error says why it cannot.
    pub async fn install(
        &self,
        name: &str,
        handler: Arc<dyn StageHandler>,
        file: Option<String>,
    ) -> Result<(), String> {
        if !is_name(name) {
            return Err(format!(
                "`{name}` cannot name a stage: it must match [a-z][a-z0-9-]{{0,39}}"
            ));
        }
        let pipeline = &self.services.pipeline;
        let stage = pipeline.stage(name);
        if let Some(other) = stage.running().filter(|running| running.file != file) {
            let owner = other.file.clone().unwrap_or_else(|| "a native stage".into());
            return Err(format!(
                "stage `{name}` is served by {owner}: rename one of them, or give it a name of its own in the configuration"
            ));
        }
        let (description, settings) = (handler.description(), &stage.config.settings);
        if let Some(problem) = event_settings::problem(description, settings) {
            return Err(format!("stage `{name}`: {problem}"));
        }
        let patterns = pipeline.policy(&stage, &*handler).consumes;
        let binding = Binding { stage: Arc::clone(&stage.name), patterns: patterns.clone() };
        BindingSync::announce(&self.services, &binding).await;
        self.services
            .broker
            .declare(binding)
            .await
            .map_err(|error| format!("its queue could not be declared: {error}"))?;
        pipeline.route(&stage, &patterns);
        self.record_load(&stage, &*handler).await;
        pipeline.swap(&stage, handler, file, self.services.clock.now_ms());
        for warning in pipeline.topology_of(&stage).iter().flat_map(TopologyStage::warnings) {
            tracing::warn!(stage = %name, "{warning}");
        }
        Ok(())
    }

    async fn apply(&self, state: &mut State, change: PluginChange) {
        state.applying = change.file().map(str::to_owned);
        match change {
            #[cfg(feature = "wasm")]
            PluginChange::Loaded(plugin) => self.load(state, *plugin).await,
            PluginChange::Failed { file, error } => {
                tracing::error!(%file, %error, "plugin refused; the version before keeps serving");
                self.files.update(&file, |status| {
                    status.error = Some(error);
                    status.reload_count += 1;
                });
            }
            PluginChange::Removed { file } => self.remove(state, &file).await,
            PluginChange::ScanComplete => {}
            PluginChange::RolledBack { stage, digest, why } => {
                self.restore(&stage, &digest, &why).await;
            }
        }
        state.applying = None;
    }

    /// The stage runs its previous version again: restores that version's file, too, and publishes
    /// an event.
    async fn restore(&self, stage: &str, rolled_back: &str, why: &str) {
        let Some(running) = self.services.pipeline.find(stage).and_then(|stage| stage.running())
        else {
            return;
        };
        let Some(file) = running.file.clone() else { return };
        let digest = running.handler.digest().to_owned();
        let note = format!("rolled back from {} to {}: {why}", short(rolled_back), short(&digest));
        tracing::error!(stage, %file, "{note}");
        let note = match self.places.restore(&digest, &file).await {
            Ok(()) => note,
            Err(error) => format!(
                "{note}. Its file could not be restored ({error}): replace {file} before this host \
                 is restarted"
            ),
        };
        let rolled_back_file = RolledBackFile { digest: digest.clone(), note };
        self.files.update(&file, |status| status.rolled_back = Some(rolled_back_file));
        let data = serde_json::json!({
            "stage": stage,
            "file": file,
            "digest": digest,
            "rolled_back": rolled_back,
            "reason": why,
            "host": &*self.services.host,
        });
        self.services.announce(&running.policy, PLUGIN_ROLLED_BACK, &data).await;
    }

    async fn remove(&self, state: &mut State, file: &str) {
        let names = self.abandoned(file, &[]);
        for name in &names {
            self.stop(state, name).await;
        }
        tracing::info!(%file, stages = %names.join(","), "plugin removed; its queues keep their messages, and orders wait for its stages until they are deleted: `postrider stages delete <stage>`");
        self.files.update(file, |status| {
            *status = FileStatus { removed: true, stages: names, ..FileStatus::default() }
        });
    }

    /// Stages that `file` served and no longer serves.
    fn abandoned(&self, file: &str, kept: &[String]) -> Vec<String> {
        let served = |stage: &Arc<Stage>| {
            stage.running().is_some_and(|running| running.file.as_deref() == Some(file))
        };
        let stages = self.services.pipeline.stages();
        stages
            .iter()
            .filter(|stage| served(stage))
            .map(|stage| stage.name.to_string())
            .filter(|name| !kept.contains(name))
            .collect()
    }

    /// Waits until the worker has finished its batch, then leaves the stage without a handler.
    async fn stop(&self, state: &mut State, name: &str) {
        let Some(stage) = self.services.pipeline.find(name) else { return };
        if let Some(workers) = state.workers.remove(&stage.name) {
            workers.stop().await;
        }
        self.services.pipeline.stop(&stage);
    }

    fn start_workers(&self, state: &mut State) {
        for stage in self.services.pipeline.stages() {
            if stage.running().is_none() || state.workers.contains_key(&stage.name) {
                continue;
            }
            let (workers, services) = (self.tasks.child(), &self.services);
            let worker = StageWorker { stage: Arc::clone(&stage), services: services.clone() };
            workers.spawn(
                TaskName::of_stage(Task::StageWorker, &stage.name),
                Arc::new(worker),
                |worker, stop| async move { worker.run(stop).await },
            );
            let handler = PoisonMessageHandler::new(Arc::clone(&stage), services.clone());
            workers.spawn(
                TaskName::of_stage(Task::PoisonMessages, &stage.name),
                Arc::new(tokio::sync::Mutex::new(handler)),
                |handler, stop| async move { handler.lock().await.run(stop).await },
            );
            state.workers.insert(Arc::clone(&stage.name), workers);
        }
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

/// Enough of a digest to tell versions apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
