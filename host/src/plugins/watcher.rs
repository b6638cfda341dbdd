//! The plugins folder: changed files are compiled, linked and described before they are reported.
//!
//! `notify` only triggers a scan; what counts is the content. Guarantee: whatever changes a file is
//! noticed, by its look within [`SCAN_INTERVAL`], at the latest by its digest within
//! [`VERIFY_INTERVAL`]; a refused file is tried again when what it waits for may have come. A file
//! that cannot be loaded and was written a moment ago is scanned again until it stops changing, so a
//! half-written file is never reported. Files are loaded side by side. A compilation that is under
//! way when the task is dropped finishes, and its result is discarded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use self::listing::Stamp;
use self::load::Loader;
use self::scanner::Scanner;
use crate::pipeline::plugin_change::PluginChange;
use crate::plugins::PluginFiles;
use crate::runtime::Runtime;
use crate::runtime::provenance::{PluginArchive, Provenance};

mod listing;
mod load;
mod scanner;

/// Time between two scans when `notify` reports nothing: its events can be lost, and it does not
/// follow links.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// A file that cannot be loaded counts as half-written until it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(500);
/// Time between two scans while a file is half-written.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A file that changed less than this before it was read may change again without looking
/// different: the precision of any file system's clock. Its content is compared once more.
const CLOCK_PRECISION: Duration = Duration::from_secs(2);
/// Time between two comparisons of a file's content.
const VERIFY_INTERVAL: Duration = Duration::from_mins(1);

/// The folder, and how its files are loaded.
pub struct FolderOptions {
    /// Every `*.wasm` in it is a plugin.
    pub dir: PathBuf,
    /// Wait between an event of `notify` and the scan, so that changes are gathered.
    pub debounce_ms: u64,
    /// Which files are loaded.
    pub provenance: Provenance,
    /// Receives a copy of every file that was loaded.
    pub archive: PluginArchive,
}

/// Scans the folder.
pub struct PluginWatcher {
    dir: PathBuf,
    debounce: Duration,
    /// Survives a restart of the task.
    scanner: Mutex<Scanner>,
}

impl PluginWatcher {
    /// Loads files into `runtime` and reports them to `changes`.
    pub fn new(
        options: FolderOptions,
        runtime: Arc<Runtime>,
        files: Arc<PluginFiles>,
        changes: mpsc::Sender<PluginChange>,
    ) -> Self {
        let FolderOptions { dir, debounce_ms, provenance, archive } = options;
        let loader = Loader { dir: dir.clone(), runtime, provenance, archive, files };
        let scanner = Mutex::new(Scanner::new(Arc::new(loader), changes));
        Self { dir, debounce: Duration::from_millis(debounce_ms), scanner }
    }

    /// Reports what is there, then every change, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let scanner = &mut *self.scanner.lock().await;
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.watch(scanner) => cancel.cancelled().await,
        }
    }

    /// Scans for as long as its changes are received.
    async fn watch(&self, scanner: &mut Scanner) {
        let (hint, mut hints) = mpsc::channel(1);
        let mut folder = WatchedFolder::new(&self.dir, hint);
        scanner.recover();
        while !scanner.is_closed() {
            folder.follow();
            scanner.tick().await;
            let wait = scanner.wait();
            let ended = tokio::select! {
                ended = scanner.next_ended() => Some(ended),
                Some(()) = hints.recv() => {
                    tokio::time::sleep(self.debounce).await;
                    None
                }
                () = tokio::time::sleep(wait) => None,
            };
            if let Some(ended) = ended {
                scanner.finish(ended).await;
            }
        }
    }
}

/// A folder that the operating system watches. It may be removed and created again, or be a link
/// that is replaced.
struct WatchedFolder<'a> {
    dir: &'a Path,
    hint: mpsc::Sender<()>,
    /// The folder that is watched; none: there was none.
    watched: Option<Stamp>,
    /// Alive for as long as the folder is watched.
    watcher: Option<notify::RecommendedWatcher>,
}

impl<'a> WatchedFolder<'a> {
    fn new(dir: &'a Path, hint: mpsc::Sender<()>) -> Self {
        Self { dir, hint, watched: None, watcher: None }
    }

    /// Watches the folder that is at its place now.
    fn follow(&mut self) {
        let found = std::fs::metadata(self.dir).ok().as_ref().map(Stamp::of);
        let same = match (&self.watched, &found) {
            (Some(watched), Some(found)) => watched.is_same_place(found),
            (watched, found) => watched.is_none() && found.is_none(),
        };
        if !same {
            self.watcher = found.and_then(|_| watch(self.dir, self.hint.clone()));
            self.watched = found;
        }
    }
}

/// The operating system's watcher; without one the folder is still scanned every [`SCAN_INTERVAL`].
fn watch(dir: &Path, hint: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full channel has triggered a scan already.
            let _ = hint.try_send(());
        }
    });
    let started = watcher
        .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
    let unwatched = |error: &notify::Error| {
        tracing::warn!(%error, dir = %dir.display(), "the plugins folder cannot be watched; polling it");
    };
    started.inspect_err(unwatched).ok()
}
