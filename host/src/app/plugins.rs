//! Plugins: what serves each stage, which versions served it before, and the way back to one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::audit::actor;
use crate::domain::event::without_nul;
use crate::plugins::FileStatus;
use crate::store::{AuditEntry, AuditOutcome, PluginLoad, StoreError};

/// Loads that are searched for an earlier version.
const HISTORY_MAX: u32 = 1_000;
/// How long a replaced file may take to load: the largest compile for half a minute.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_mins(2);
const LOAD_POLL: Duration = Duration::from_millis(2);

/// Whether a plugin serves.
///
/// ```
/// use postrider::PluginState;
///
/// assert_eq!(PluginState::Serving.as_str(), "serving");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PluginState {
    /// It serves its stage.
    Serving,
    /// Its file is being compiled and loaded, and no earlier content serves.
    Compiling,
    /// Its file was removed from the folder.
    Removed,
    /// Its file was refused, and no earlier content serves.
    Failed,
}

impl PluginState {
    /// The name that the API and the command line use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Compiling => "compiling",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }
}

/// A stage of this host with the plugin that serves it, or a file that serves none.
///
/// ```no_run
/// # fn example(app: &postrider::App) {
/// for plugin in app.plugins() {
///     if let Some(error) = &plugin.last_error {
///         eprintln!("{}: {error}", plugin.file.as_deref().unwrap_or("native"));
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PluginStatus {
    /// The stage; none for a file that was refused before its stage was known.
    pub stage: Option<String>,
    /// Plugin file; none for a native stage.
    pub file: Option<String>,
    /// Version that serves.
    pub version: Option<String>,
    /// SHA-256 of the file that serves.
    pub digest: Option<String>,
    /// Whether it serves.
    pub state: PluginState,
    /// Why the newest content of the file does not serve, or why the folder cannot be read.
    pub last_error: Option<String>,
    /// What has to change before the newest content serves.
    pub waiting_for: Option<String>,
    /// Since when the newest content of the file is compiled or waits for that, milliseconds since
    /// 1970-01-01 UTC.
    pub compiling_since_ms: Option<u64>,
    /// Why the host rolled a newer version back to this one.
    pub rolled_back: Option<String>,
    /// When this version was loaded, milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: Option<u64>,
    /// Topic patterns that it consumes.
    pub consumes: Vec<String>,
    /// Event types that it emits.
    pub emits: Vec<String>,
    /// What is doubtful about it: event types that it consumes and does not handle.
    pub warnings: Vec<String>,
}

/// The result of a rollback.
///
/// ```no_run
/// # async fn example(app: &postrider::App) -> anyhow::Result<()> {
/// use postrider::RollBack;
///
/// match app.roll_back("payment", None, Some("it declines everyone")).await? {
///     RollBack::Done(digest) => println!("{digest} serves again"),
///     RollBack::NotFound => println!("no plugin file runs this stage"),
///     RollBack::NoSuchVersion => println!("there is no earlier version"),
///     RollBack::Refused(reason) => println!("refused: {reason}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum RollBack {
    /// The version with this digest serves.
    Done(String),
    /// No plugin file runs such a stage here.
    NotFound,
    /// No such earlier version is archived, or several digests start with the one given.
    NoSuchVersion,
    /// The earlier version does not serve: why.
    Refused(String),
}

impl App {
    /// Returns at most `limit` loads of a stage's plugin on any host, newest first.
    pub async fn plugin_history(
        &self,
        stage: &str,
        limit: u32,
    ) -> Result<Vec<PluginLoad>, StoreError> {
        self.services.store.plugin_loads(stage, limit).await
    }

    /// Rolls a stage's plugin back to an earlier version on this host: to the one with this digest
    /// (or the only one that starts with it), or else to the version before the present one.
    /// Returns once the file is loaded or refused. The audit log has the reason.
    pub async fn roll_back(
        &self,
        stage: &str,
        digest: Option<&str>,
        reason: Option<&str>,
    ) -> Result<RollBack, StoreError> {
        let running = self.services.pipeline.find(stage).and_then(|stage| stage.running());
        let Some((running, file)) =
            running.and_then(|running| running.file.clone().map(|file| (running, file)))
        else {
            return Ok(RollBack::NotFound);
        };
        let present = &*running.digest;
        let loads = self.services.store.plugin_loads(stage, HISTORY_MAX).await?;
        let mut known: Vec<String> = Vec::new();
        for load in loads {
            let wanted = digest.is_none_or(|wanted| load.digest.starts_with(wanted));
            if wanted
                && load.digest != present
                && !known.contains(&load.digest)
                && self.places.archive.contains(&load.digest)
            {
                known.push(load.digest);
            }
        }
        let ambiguous = digest.is_some() && known.len() > 1;
        let Some(chosen) = known.into_iter().next().filter(|_| !ambiguous) else {
            return Ok(RollBack::NoSuchVersion);
        };
        let reload_count = self.reload_count(&file);
        let restored = match self.places.restore(&chosen, &file).await {
            Ok(()) => self.wait_until_loaded(&file, &chosen, reload_count).await.map(drop),
            Err(error) => Err(format!("{file} could not be replaced: {error}")),
        };
        let entry = AuditEntry::new(&actor(), "plugin.roll-back", format!("stage/{stage}"))
            .change(json!({ "digest": present }), json!({ "digest": chosen }));
        let given = reason.map(|reason| without_nul(reason.to_owned()));
        Ok(match restored {
            Ok(()) => {
                self.record(entry.because(given)).await;
                RollBack::Done(chosen)
            }
            Err(why) => {
                let (outcome, reason) = (AuditOutcome::Refused, refusal(&why, given.as_deref()));
                self.record(AuditEntry { outcome, ..entry.because(Some(reason)) }).await;
                RollBack::Refused(why)
            }
        })
    }

    /// How many times this host has loaded, or failed to load, a plugin file. Read it before the
    /// file is replaced, and pass it to [`App::wait_until_loaded`].
    pub fn reload_count(&self, file: &str) -> u64 {
        self.files.all().get(file).map_or(0, |status| status.reload_count)
    }

    /// Waits until the host serves a file's new content, which has this digest. Returns the stages
    /// that it serves.
    ///
    /// # Errors
    /// Why the content was refused, or that it was not loaded within two minutes.
    pub async fn wait_until_loaded(
        &self,
        file: &str,
        digest: &str,
        reload_count_before: u64,
    ) -> Result<Vec<String>, String> {
        let loaded = async {
            loop {
                let plugins: Vec<PluginStatus> = self
                    .plugins()
                    .into_iter()
                    .filter(|plugin| plugin.file.as_deref() == Some(file))
                    .collect();
                let serving =
                    plugins.iter().filter(|plugin| plugin.digest.as_deref() == Some(digest));
                let stages: Vec<String> =
                    serving.filter_map(|plugin| plugin.stage.clone()).collect();
                if !stages.is_empty() {
                    return Ok(stages);
                }
                if self.reload_count(file) > reload_count_before
                    && let Some(error) = plugins.into_iter().find_map(|plugin| plugin.last_error)
                {
                    return Err(error);
                }
                tokio::time::sleep(LOAD_POLL).await;
            }
        };
        let late = || Err(format!("{file} was replaced, but is not loaded yet: see GET /plugins"));
        tokio::time::timeout(LOAD_TIMEOUT, loaded).await.unwrap_or_else(|_| late())
    }

    /// Returns every stage with the plugin that serves it, and every file that serves none.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let (files, folder) = (self.files.all(), self.files.folder_problem());
        let mut plugins: Vec<PluginStatus> = Vec::new();
        for stage in self.services.pipeline.stages() {
            let Some(running) = stage.running() else { continue };
            let description = running.handler.description();
            let file_status = running.file.as_ref().and_then(|file| files.get(file));
            plugins.push(PluginStatus {
                stage: Some(stage.name.to_string()),
                file: running.file.clone(),
                version: Some(description.version.clone()),
                digest: Some(running.digest.to_string()),
                state: PluginState::Serving,
                last_error: file_status.and_then(|status| status.error.clone().or(folder.clone())),
                waiting_for: file_status.and_then(|status| status.waiting_for.clone()),
                compiling_since_ms: file_status.and_then(|status| status.compiling_since_ms),
                rolled_back: file_status.and_then(|status| {
                    status.rolled_back.as_ref().map(|rolled_back| rolled_back.note.clone())
                }),
                loaded_at_ms: Some(running.loaded_at_ms),
                consumes: running.policy.consumes.clone(),
                emits: running.policy.emits.clone(),
                warnings: self
                    .services
                    .pipeline
                    .topology_of(&stage)
                    .map(|stage| stage.warnings().collect())
                    .unwrap_or_default(),
            });
        }
        for (file, status) in files {
            if plugins.iter().all(|plugin| plugin.file.as_ref() != Some(&file)) {
                plugins.extend(not_serving(&file, status));
            }
        }
        plugins
    }
}

/// The reason in the record of a roll-back that was refused: why, and the reason that was given for it.
fn refusal(why: &str, given: Option<&str>) -> String {
    given.map_or_else(|| why.to_owned(), |given| format!("{why}; the reason given: {given}"))
}

/// A file that serves nothing: one entry for each stage it served, or one without a stage.
fn not_serving(file: &str, status: FileStatus) -> impl Iterator<Item = PluginStatus> {
    let FileStatus { stages, removed, error, waiting_for, compiling_since_ms, .. } = status;
    let state = match &error {
        _ if removed => PluginState::Removed,
        Some(_) if compiling_since_ms.is_none() => PluginState::Failed,
        // Until it is refused or serves.
        _ => PluginState::Compiling,
    };
    let stages = if stages.is_empty() {
        vec![None]
    } else {
        stages.into_iter().map(Some).collect::<Vec<_>>()
    };
    let file = file.to_owned();
    stages.into_iter().map(move |stage| PluginStatus {
        stage,
        file: Some(file.clone()),
        version: None,
        digest: None,
        state,
        last_error: error.clone(),
        waiting_for: waiting_for.clone(),
        compiling_since_ms,
        rolled_back: None,
        loaded_at_ms: None,
        consumes: Vec::new(),
        emits: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The texts of a plugin that quote an error.
pub(super) fn texts(plugin: &mut PluginStatus) -> [&mut Option<String>; 3] {
    [&mut plugin.last_error, &mut plugin.waiting_for, &mut plugin.rolled_back]
}

#[cfg(test)]
impl PluginStatus {
    /// A plugin that serves the stage of its name.
    pub(super) fn named(name: &str, version: &str) -> Self {
        Self {
            stage: Some(name.to_owned()),
            file: Some(format!("{name}.wasm")),
            version: Some(version.to_owned()),
            digest: None,
            state: PluginState::Serving,
            last_error: None,
            waiting_for: None,
            compiling_since_ms: None,
            rolled_back: None,
            loaded_at_ms: Some(1),
            consumes: Vec::new(),
            emits: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_a_refused_roll_back_keeps_the_reason_that_was_given() {
        assert_eq!(refusal("it does not load", None), "it does not load");
        let both = refusal("it does not load", Some("it counts twice"));
        assert_eq!(both, "it does not load; the reason given: it counts twice");
    }
}
