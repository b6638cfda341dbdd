//! Compares the folder with what was seen before, and loads what changed.
//!
//! Bounds: one load for each file at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::Instrument as _;

use super::listing::{Look, list};
use super::load::{Finished, Loaded, Loader, Refusal, Request};
use super::{CLOCK_PRECISION, RETRY_INTERVAL, SCAN_INTERVAL, SETTLED, VERIFY_INTERVAL};
use crate::pipeline::plugin_change::{LoadedPlugin, PluginChange};
use crate::plugins::waiting::WaitingFor;

pub(super) struct Scanner {
    loader: Arc<Loader>,
    changes: mpsc::Sender<PluginChange>,
    seen: BTreeMap<String, SeenFile>,
    loads: JoinSet<Finished>,
    /// Changes of the first scan by file: reported together and in this order, so that it does not
    /// depend on the time that each takes which of two files serves a stage.
    first: Option<BTreeMap<String, PluginChange>>,
}

/// A file as it was last handled.
struct SeenFile {
    look: Look,
    /// Of the content that was handled and to which nothing else matters.
    digest: Option<Arc<str>>,
    /// In a row.
    failures: u32,
    /// Why it was refused while it looked like this.
    error: Option<String>,
    /// It could not be loaded, and may be half-written.
    settling: bool,
    state: FileState,
}

enum FileState {
    Loading(AbortHandle),
    /// Read again at this time, whatever it looks like.
    Handled {
        due: Instant,
    },
}

impl SeenFile {
    fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, FileState::Handled { due } if due <= now)
    }

    /// Stops the load that is under way; a compilation finishes, and its result is discarded.
    fn abort(&self) {
        if let FileState::Loading(load) = &self.state {
            load.abort();
        }
    }
}

impl Scanner {
    pub(super) fn new(loader: Arc<Loader>, changes: mpsc::Sender<PluginChange>) -> Self {
        Self {
            loader,
            changes,
            seen: BTreeMap::new(),
            loads: JoinSet::new(),
            first: Some(BTreeMap::new()),
        }
    }

    /// Whether the receiver of the changes is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.changes.is_closed()
    }

    /// One scan of the folder; loads every file that changed or is due.
    pub(super) async fn tick(&mut self) {
        match list(&self.loader.dir) {
            Ok(listing) => {
                self.loader.files.set_folder_problem(None);
                self.forget_removed(|file| !listing.contains_key(file)).await;
                let now = Instant::now();
                for (file, look) in listing {
                    let seen = self.seen.get(&file);
                    if seen.is_none_or(|seen| seen.look != look || seen.is_due(now)) {
                        self.start_load(file, look);
                    }
                }
            }
            // What is loaded keeps serving: a folder that is gone may be one that is not mounted.
            Err(error) => {
                let dir = self.loader.dir.display();
                let problem = format!("the plugins folder {dir} cannot be read: {error}");
                if self.loader.files.set_folder_problem(Some(problem.clone())) {
                    tracing::error!(
                        "{problem}; what is loaded keeps serving, and the folder is tried again"
                    );
                }
            }
        }
        self.finish_first_scan().await;
    }

    /// The time until the next scan.
    pub(super) fn wait(&self) -> Duration {
        if self.seen.values().any(|seen| seen.settling) { RETRY_INTERVAL } else { SCAN_INTERVAL }
    }

    /// Loads once more what was being loaded when the task failed.
    pub(super) fn recover(&mut self) {
        for seen in self.seen.values_mut() {
            if matches!(seen.state, FileState::Loading(_)) {
                seen.abort();
                seen.state = FileState::Handled { due: Instant::now() };
            }
        }
    }

    /// Waits until a load has ended.
    pub(super) async fn next_ended(&mut self) -> Result<(Id, Finished), JoinError> {
        match self.loads.join_next_with_id().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    async fn forget_removed(&mut self, gone: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.seen.keys().filter(|file| gone(file)).cloned().collect();
        for file in gone {
            // Reported first: after a panic in between it is reported twice rather than never.
            self.report(PluginChange::Removed { file: file.clone() }).await;
            if let Some(seen) = self.seen.remove(&file) {
                seen.abort();
            }
        }
    }

    fn start_load(&mut self, file: String, look: Look) {
        let before = self.seen.remove(&file);
        if let Some(before) = &before {
            before.abort();
        }
        let (digest, failures, error) = match before {
            Some(seen) if seen.look == look => (seen.digest, seen.failures, seen.error),
            before => (before.and_then(|seen| seen.digest), 0, None),
        };
        let request = Request { file: file.clone(), look: look.clone(), known: digest.clone() };
        let load = self.loads.spawn(Arc::clone(&self.loader).run(request).in_current_span());
        let state = FileState::Loading(load);
        self.seen.insert(file, SeenFile { look, digest, failures, error, settling: false, state });
    }

    /// Handles the end of a load, unless the file was removed or changed meanwhile.
    pub(super) async fn finish(&mut self, ended: Result<(Id, Finished), JoinError>) {
        let load = ended.as_ref().map_or_else(JoinError::id, |(load, _)| *load);
        let is_it =
            |seen: &SeenFile| matches!(&seen.state, FileState::Loading(of) if of.id() == load);
        let found = self.seen.iter().find(|(_, seen)| is_it(seen));
        let Some((file, look)) = found.map(|(file, seen)| (file.clone(), seen.look.clone())) else {
            return;
        };
        let (result, load_time) = match ended {
            Ok((_, finished)) => (finished.result, finished.load_time),
            Err(error) => {
                let why = format!("the host failed while it loaded the file: {error}");
                (Err(Refusal::new(why, WaitingFor::AnotherTry)), Duration::ZERO)
            }
        };
        // What was read counts only if the file is still the same.
        let changed = Look::at(&self.loader.dir.join(&file)).as_ref() != Some(&look);
        if changed || (result.is_err() && look.is_younger_than(SETTLED)) {
            if let Some(seen) = self.seen.get_mut(&file) {
                seen.settling = true;
                seen.state = FileState::Handled { due: Instant::now() + RETRY_INTERVAL };
            }
            return;
        }
        let verify =
            if look.is_younger_than(CLOCK_PRECISION) { CLOCK_PRECISION } else { VERIFY_INTERVAL };
        let (wait, change) = self.judge(&file, result, load_time);
        if let Some(change) = change {
            self.report(change).await;
        }
        if let Some(seen) = self.seen.get_mut(&file) {
            seen.state = FileState::Handled {
                due: Instant::now() + wait.map_or(verify, |wait| wait.min(verify)),
            };
        }
        self.finish_first_scan().await;
    }

    /// Records the result of a load. Returns what to report, and when to try again.
    fn judge(
        &mut self,
        file: &str,
        result: Result<Loaded, Refusal>,
        load_time: Duration,
    ) -> (Option<Duration>, Option<PluginChange>) {
        let Some(seen) = self.seen.get_mut(file) else { return (None, None) };
        let file = file.to_owned();
        match result {
            Ok(Loaded::Unchanged) => (None, None),
            Ok(Loaded::New(linked)) => {
                seen.digest = Some(Arc::clone(&linked.digest));
                (seen.failures, seen.error) = (0, None);
                let plugin = LoadedPlugin { file, linked, load_time };
                (None, Some(PluginChange::Loaded(Box::new(plugin))))
            }
            Err(refusal) => {
                seen.failures = seen.failures.saturating_add(1);
                seen.digest = refusal.settled_digest();
                let Refusal { error, waiting_for, content } = refusal;
                let wait = waiting_for.retry_after(seen.failures);
                // Tried again with the same result: there is no news.
                if seen.error.as_ref() == Some(&error) {
                    return (wait, None);
                }
                seen.error = Some(error.clone());
                let waiting_for = waiting_for.to_string();
                (wait, Some(PluginChange::Failed { file, error, waiting_for, content }))
            }
        }
    }

    async fn report(&mut self, change: PluginChange) {
        if let (Some(first), Some(file)) = (&mut self.first, change.file()) {
            first.insert(file.to_owned(), change);
            return;
        }
        // Only the end of the host closes the channel.
        let _ = self.changes.send(change).await;
    }

    /// Reports the first scan once every file in it was handled.
    async fn finish_first_scan(&mut self) {
        let handled =
            |seen: &SeenFile| matches!(seen.state, FileState::Handled { .. }) && !seen.settling;
        if !self.seen.values().all(handled) {
            return;
        }
        let Some(first) = self.first.take() else { return };
        for change in first.into_values().chain([PluginChange::ScanComplete]) {
            let _ = self.changes.send(change).await;
        }
    }
}
