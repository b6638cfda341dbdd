//! The state of every plugin file, shared with the API, and where the files are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::runtime::provenance::PluginArchive;

/// Largest plugin file; larger ones are refused unread.
#[cfg(any(feature = "http", feature = "wasm"))]
pub const FILE_MAX_BYTES: u64 = 256 << 20;

/// The state of one plugin file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileStatus {
    /// Stages it serves.
    pub stages: Vec<String>,
    /// Why the newest content of the file does not serve.
    pub error: Option<String>,
    /// What has to change before it does.
    pub waiting_for: Option<String>,
    /// Other files serve all the stages for which it was refused.
    pub is_replaced: bool,
    /// Since when its newest content is compiled or waits for that; milliseconds since 1970-01-01
    /// UTC.
    pub compiling_since_ms: Option<u64>,
    /// It was in the folder when the host started, and has not served since: `/ready`
    /// names it.
    pub skipped_at_start: bool,
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
pub struct PluginFiles {
    files: Mutex<BTreeMap<String, FileStatus>>,
    /// Why the folder cannot be read.
    folder_problem: Mutex<Option<String>>,
    /// It could not be read at the start, nor since.
    folder_skipped: AtomicBool,
}

impl PluginFiles {
    /// All files by name.
    pub fn all(&self) -> BTreeMap<String, FileStatus> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Marks the files that the start had to do without, unless another file serves in their place.
    pub(super) fn mark_skipped(&self) {
        self.folder_skipped.store(self.folder_problem().is_some(), Ordering::SeqCst);
        for status in self.files.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            status.skipped_at_start = status.error.is_some() && !status.is_replaced;
        }
    }

    /// Why the folder cannot be read, if so.
    pub fn folder_problem(&self) -> Option<String> {
        self.folder_problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the folder cannot be read, if it could not since the start.
    pub fn folder_skipped_at_start(&self) -> Option<String> {
        self.folder_problem().filter(|_| self.folder_skipped.load(Ordering::SeqCst))
    }

    /// Sets why the folder cannot be read; true if that is news.
    #[cfg(feature = "wasm")]
    pub(super) fn set_folder_problem(&self, problem: Option<String>) -> bool {
        let mut present = self.folder_problem.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *present != problem;
        if problem.is_none() {
            self.folder_skipped.store(false, Ordering::SeqCst);
        }
        *present = problem;
        news
    }

    pub(super) fn update<T>(&self, file: &str, change: impl FnOnce(&mut FileStatus) -> T) -> T {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        change(files.entry(file.to_owned()).or_default())
    }
}
