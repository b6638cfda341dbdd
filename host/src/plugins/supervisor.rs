//! The supervisor: turns changes in the plugins folder into stages that run, swap or stop.
//!
//! A bad plugin never replaces a good one: a file reaches this place only after it was compiled,
//! linked and described; whatever is wrong with it is kept beside the file's name and shown, while
//! the old one keeps serving. BindingSync are added before a new version starts. A removed plugin
//! stops the consumption; the queue and its messages stay.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::binding_sync::BindingSync;
use crate::broker::Binding;
use crate::domain::event::PLUGIN_ROLLED_BACK;
use crate::domain::name::is_name;
use crate::pipeline::Stage;
use crate::pipeline::plugin_change::{LoadedPlugin, PluginChange};
use crate::runtime::WasmStage;
use crate::runtime::provenance::PluginArchive;
use crate::services::Services;
use crate::stage::handler::StageHandler;
use crate::store::PluginLoad;
use crate::worker::StageWorker;
use crate::worker::poison_messages::PoisonMessageHandler;

/// What became of one plugin file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileStatus {
    /// Stages it serves.
    pub stages: Vec<String>,
    /// Why the newest content of the file does not serve.
    pub error: Option<String>,
    /// The file is gone.
    pub removed: bool,
    /// How many times the host looked at new content of it.
    pub reload_count: u64,
    /// The version that was put back after a newer one trapped, and what there is to say about it.
    pub put_back: Option<(String, String)>,
}

/// Where plugin files are.
#[derive(Debug, Clone)]
pub struct PluginPlaces {
    /// The plugins folder.
    pub dir: PathBuf,
    /// What was loaded before.
    pub kept: PluginArchive,
}

impl PluginPlaces {
    /// Puts a kept version in the place of a plugin file.
    pub async fn put_back(&self, digest: &str, file: &str) -> std::io::Result<()> {
        let (kept, place, digest) = (self.kept.clone(), self.dir.join(file), digest.to_owned());
        tokio::task::spawn_blocking(move || kept.put_back(&digest, &place)).await?
    }
}

/// Plugin files by name, for whoever shows them.
#[derive(Default)]
pub struct Files(Mutex<BTreeMap<String, FileStatus>>);

impl Files {
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

struct RunningWorker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts, swaps and stops stages.
pub struct Supervisor {
    services: Services,
    files: Arc<Files>,
    host_name: String,
    places: PluginPlaces,
    changes: mpsc::Receiver<PluginChange>,
    workers: HashMap<Arc<str>, RunningWorker>,
    tasks: TaskTracker,
}

impl Supervisor {
    /// A supervisor that listens to `changes`.
    pub fn new(
        services: Services,
        files: Arc<Files>,
        host_name: String,
        places: PluginPlaces,
        changes: mpsc::Receiver<PluginChange>,
    ) -> Self {
        Self {
            services,
            files,
            host_name,
            places,
            changes,
            workers: HashMap::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Takes changes until the first scan of the folder is complete.
    pub async fn finish_first_scan(&mut self) {
        while let Some(change) = self.changes.recv().await {
            if matches!(change, PluginChange::ScanComplete) {
                return;
            }
            self.apply(change).await;
        }
    }

    /// Runs a worker for every stage and follows the folder until cancelled; then waits for the
    /// workers.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.start_workers(&cancel);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                change = self.changes.recv() => match change {
                    Some(change) => {
                        self.apply(change).await;
                        self.start_workers(&cancel);
                    }
                    None => break,
                },
            }
        }
        cancel.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Makes `handler` serve the stage `name`.
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
        let patterns = pipeline.policy(&stage, &*handler).consumes;
        let binding = Binding { stage: Arc::clone(&stage.name), patterns: patterns.clone() };
        BindingSync::announce(&self.services, &binding).await;
        self.services
            .broker
            .declare(binding)
            .await
            .map_err(|error| format!("its queue could not be declared: {error}"))?;
        pipeline.route(&stage, &patterns);
        self.note_load(&stage, &*handler).await;
        pipeline.swap(&stage, handler, file, self.services.clock.now_ms());
        Ok(())
    }

    async fn apply(&mut self, change: PluginChange) {
        match change {
            PluginChange::Loaded(plugin) => self.load(*plugin).await,
            PluginChange::Failed { file, error } => {
                tracing::error!(%file, %error, "the plugin was refused; what served before keeps serving");
                self.files.update(&file, |status| {
                    status.error = Some(error);
                    status.reload_count += 1;
                });
            }
            PluginChange::Removed { file } => self.remove(&file).await,
            PluginChange::ScanComplete => {}
            PluginChange::RolledBack { stage, digest, why } => {
                self.put_back(&stage, &digest, &why).await
            }
        }
    }

    /// The stage runs the version before again: puts its file back, too, and says so.
    async fn put_back(&self, stage: &str, distrusted: &str, why: &str) {
        let Some(running) = self.services.pipeline.find(stage).and_then(|stage| stage.running())
        else {
            return;
        };
        let Some(file) = running.file.clone() else { return };
        let digest = running.handler.digest().to_owned();
        let note =
            format!("{} was put back in the place of {}: {why}", short(&digest), short(distrusted));
        tracing::error!(stage, %file, "{note}");
        let note = match self.places.put_back(&digest, &file).await {
            Ok(()) => note,
            Err(error) => format!(
                "{note}. Its file could not be put back ({error}): replace {file} before this host is started again"
            ),
        };
        self.files.update(&file, |status| status.put_back = Some((digest.clone(), note)));
        let data = serde_json::json!({
            "stage": stage, "file": file, "digest": digest, "distrusted": distrusted, "reason": why, "host": self.host_name,
        });
        self.services.announce(&running.policy, PLUGIN_ROLLED_BACK, &data).await;
    }

    async fn load(&mut self, plugin: LoadedPlugin) {
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
        // A stage whose new version was refused keeps its old one; so do all of them when nothing
        // of the file was taken.
        let kept = if stages.is_empty() { self.abandoned(&plugin.file, &[]) } else { names };
        for name in self.abandoned(&plugin.file, &kept) {
            self.stop(&name).await;
        }
        tracing::info!(
            file = %plugin.file, version = %plugin.linked.description.version, digest = %short(&plugin.linked.digest),
            stages = %stages.join(","), load_ms = plugin.load_time.as_millis() as u64, "plugin loaded"
        );
        for problem in &problems {
            tracing::error!(file = %plugin.file, error = %problem, "the plugin was refused");
        }
        self.files.update(&plugin.file, |status| {
            if !stages.is_empty() || problems.is_empty() {
                status.stages = stages;
            }
            status.error = (!problems.is_empty()).then(|| problems.join("; "));
            status.removed = false;
            status.reload_count += 1;
            // What was put back is told until something else comes.
            status.put_back =
                status.put_back.take().filter(|(digest, _)| **digest == *plugin.linked.digest);
        });
    }

    async fn remove(&mut self, file: &str) {
        let names = self.abandoned(file, &[]);
        for name in &names {
            self.stop(name).await;
        }
        tracing::info!(%file, stages = %names.join(","), "plugin removed; its queue keeps the messages");
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

    /// Lets the worker finish its batch, then leaves the stage without a handler.
    async fn stop(&mut self, name: &str) {
        let Some(stage) = self.services.pipeline.find(name) else { return };
        if let Some(worker) = self.workers.remove(&stage.name) {
            worker.stop.cancel();
            let _ = worker.task.await;
        }
        self.services.pipeline.stop(&stage);
    }

    fn start_workers(&mut self, cancel: &CancellationToken) {
        for stage in self.services.pipeline.stages() {
            if stage.running().is_none() || self.workers.contains_key(&stage.name) {
                continue;
            }
            let stop = cancel.child_token();
            let worker = StageWorker { stage: Arc::clone(&stage), services: self.services.clone() };
            let task = self.tasks.spawn(worker.run(stop.clone()));
            let handler = PoisonMessageHandler::new(Arc::clone(&stage), self.services.clone());
            self.tasks.spawn(handler.run(stop.clone()));
            self.workers.insert(Arc::clone(&stage.name), RunningWorker { stop, task });
        }
    }

    async fn note_load(&self, stage: &Stage, handler: &dyn StageHandler) {
        let load = PluginLoad {
            stage: stage.name.to_string(),
            digest: handler.digest().to_owned(),
            version: handler.description().version.clone(),
            host: self.host_name.clone(),
            loaded_at_ms: self.services.clock.now_ms(),
        };
        if let Err(error) = self.services.store.record_plugin_load(load).await {
            tracing::warn!(stage = %stage.name, %error, "the load could not be recorded");
        }
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
