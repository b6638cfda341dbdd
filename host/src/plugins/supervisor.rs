//! The plugin supervisor: turns changes in the plugins folder into stages that start, swap or stop.
//!
//! A bad plugin never replaces a good one: a file arrives here only after it was compiled, linked
//! and described. Its errors are shown beside the file's name, while the old version keeps serving.
//! Bindings are added before a new version starts. Removing a plugin stops the consumption; the
//! queue and its messages stay. A file that was refused for what lies outside it, such as a stage
//! name in use, is tried again after every change and every [`RETRY_INTERVAL`].

#[cfg(feature = "wasm")]
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::refusals::{Refusal, Refusals};
use crate::background::supervisor::TaskGroup;
use crate::background::task::{Task, TaskName};
use crate::domain::event::PLUGIN_ROLLED_BACK;
use crate::pipeline::Stage;
use crate::pipeline::plugin_change::{PluginChange, RefusedContent};
use crate::plugins::{FileStatus, PluginFiles, PluginPlaces, RolledBackFile, WaitingFor};
use crate::services::Services;
use crate::worker::StageWorker;
use crate::worker::poison_messages::PoisonMessageHandler;

mod install;
#[cfg(feature = "wasm")]
mod load;
mod refusals;

/// Time between two retries of what was refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Starts, swaps and stops stages.
pub struct PluginSupervisor {
    services: Services,
    files: Arc<PluginFiles>,
    places: PluginPlaces,
    /// Workers run in it, a group for each stage.
    tasks: TaskGroup,
    refusals: Refusals,
    /// Survives a restart of the task.
    state: tokio::sync::Mutex<State>,
}

struct State {
    changes: mpsc::Receiver<PluginChange>,
    workers: HashMap<Arc<str>, Workers>,
    /// Workers that finish their last batch.
    ending: FuturesUnordered<BoxFuture<'static, Arc<str>>>,
    /// The file whose change is being applied.
    applying: Option<String>,
    /// Loaded files with stages that were refused, by name.
    #[cfg(feature = "wasm")]
    waiting: BTreeMap<String, load::WaitingPlugin>,
}

/// The workers of a stage. They are replaced only when they have ended, so that two events of one
/// subject never run at the same time.
struct Workers {
    group: TaskGroup,
    ending: bool,
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
        let state = State {
            changes,
            workers: HashMap::new(),
            ending: FuturesUnordered::new(),
            applying: None,
            #[cfg(feature = "wasm")]
            waiting: BTreeMap::new(),
        };
        let (refusals, state) = (Refusals::new(), tokio::sync::Mutex::new(state));
        Self { services, files, places, tasks, refusals, state }
    }

    /// Applies changes until the first scan of the folder is complete.
    pub async fn finish_first_scan(&self) {
        let state = &mut *self.state.lock().await;
        while let Some(change) = state.changes.recv().await {
            if matches!(change, PluginChange::ScanComplete) {
                self.files.mark_skipped();
                return;
            }
            self.apply(state, change).await;
        }
    }

    /// Runs workers for every stage, and applies changes until cancelled. The workers are tasks of
    /// their own: they outlive a restart of this one, and stop with their group.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.apply_all() => cancel.cancelled().await,
        }
    }

    async fn apply_all(&self) {
        let state = &mut *self.state.lock().await;
        if let Some(file) = state.applying.take() {
            // Applying it once more could fail once more; what served before keeps serving.
            let error = "the host failed while it applied the change; replace the file to retry";
            tracing::error!(%file, error, "the plugin was refused");
            self.files.update(&file, |status| {
                status.error = Some(error.to_owned());
                status.waiting_for = Some(WaitingFor::Content.to_string());
            });
        }
        self.start_workers(state);
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(change) = state.changes.recv() => self.apply(state, change).await,
                Some(stage) = state.ending.next() => {
                    state.workers.remove(&stage);
                }
                _ = retry.tick() => {
                    #[cfg(feature = "wasm")]
                    self.retry_waiting(state).await;
                }
            }
            self.start_workers(state);
        }
    }

    async fn apply(&self, state: &mut State, change: PluginChange) {
        state.applying = change.file().map(str::to_owned);
        match change {
            #[cfg(feature = "wasm")]
            PluginChange::Loaded(plugin) => self.load(state, *plugin).await,
            PluginChange::Failed { file, error, waiting_for, content } => {
                tracing::error!(%file, %error, %waiting_for, "plugin refused; the version before keeps serving");
                if let Some(RefusedContent { digest }) = content {
                    let refusal = Refusal {
                        file: &file,
                        digest: digest.as_deref(),
                        error: &error,
                        waiting_for: &waiting_for,
                    };
                    self.refusals.record(&self.services, refusal).await;
                }
                #[cfg(feature = "wasm")]
                state.waiting.remove(&file);
                self.files.update(&file, |status| {
                    status.error = Some(error);
                    status.waiting_for = Some(waiting_for);
                    status.is_replaced = false;
                    status.removed = false;
                    status.reload_count += 1;
                });
            }
            PluginChange::Removed { file } => self.remove(state, &file),
            PluginChange::ScanComplete => {}
            PluginChange::RolledBack { stage, digest, why } => {
                self.restore(&stage, &digest, &why).await;
            }
        }
        state.applying = None;
        #[cfg(feature = "wasm")]
        self.retry_waiting(state).await;
    }

    /// The stage runs its previous version again: restores that version's file, too, and publishes
    /// an event.
    async fn restore(&self, stage: &str, rolled_back: &str, why: &str) {
        let Some(running) = self.services.pipeline.find(stage).and_then(|stage| stage.running())
        else {
            return;
        };
        let Some(file) = running.file.clone() else { return };
        let digest = running.digest.to_string();
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

    fn remove(&self, state: &mut State, file: &str) {
        #[cfg(feature = "wasm")]
        state.waiting.remove(file);
        let names = self.abandoned(file, &[]);
        for name in &names {
            self.stop(state, name);
        }
        tracing::info!(%file, stages = %names.join(","), "plugin removed; its queues keep their messages, and subjects wait for its stages until they are deleted: `postrider stages delete <stage>`");
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

    /// Leaves the stage without a handler. Its workers finish their batch, which nothing here waits
    /// for: a stage may take its time.
    fn stop(&self, state: &mut State, name: &str) {
        let Some(stage) = self.services.pipeline.find(name) else { return };
        self.services.pipeline.stop(&stage);
        let Some(workers) = state.workers.get_mut(&stage.name) else { return };
        if !std::mem::replace(&mut workers.ending, true) {
            let (group, name) = (workers.group.clone(), Arc::clone(&stage.name));
            group.begin_stop();
            let ended = async move {
                group.stop().await;
                name
            };
            state.ending.push(ended.boxed());
        }
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
            let workers = Workers { group: workers, ending: false };
            state.workers.insert(Arc::clone(&stage.name), workers);
        }
    }
}

/// Enough of a digest to tell versions apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
