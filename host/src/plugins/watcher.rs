//! The plugins folder: changed files are compiled, linked and described before they are reported.
//!
//! `notify` only triggers a scan; what counts is the content. A file that cannot be loaded and was
//! written a moment ago is scanned again until it stops changing, so a half-written file is never
//! reported. Bounds: one file is read at a time. A compilation that is under way when the task is
//! dropped finishes on its blocking thread, and its result is discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::pipeline::plugin_change::{LoadedPlugin, PluginChange};
use crate::runtime::provenance::{PluginArchive, Provenance, signature_of};
use crate::runtime::{Linked, Runtime};

/// Time between two scans when `notify` reports nothing: its events can be lost.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// A file that cannot be loaded counts as half-written until it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(500);
/// Time between two scans while a file is half-written.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Larger files are refused unread.
const FILE_MAX_BYTES: u64 = 256 << 20;

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
    debounce: Duration,
    /// Survives a restart of the task.
    scanner: Mutex<Scanner>,
}

/// What a file looks like without reading it; the same stamp again means that it did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    inode: u64,
    signed: Option<SystemTime>,
}

/// A file as it was last handled.
struct SeenFile {
    stamp: Stamp,
    digest: Option<Arc<str>>,
    /// It could not be loaded, and may be half-written.
    retry: bool,
}

impl PluginWatcher {
    /// Loads files into `runtime` and reports them to `changes`.
    pub fn new(
        options: FolderOptions,
        runtime: Arc<Runtime>,
        changes: mpsc::Sender<PluginChange>,
    ) -> Self {
        let FolderOptions { dir, debounce_ms, provenance, archive } = options;
        let scanner =
            Scanner { dir, runtime, changes, provenance, archive, known: BTreeMap::new() };
        Self { debounce: Duration::from_millis(debounce_ms), scanner: Mutex::new(scanner) }
    }

    /// Reports what is there, then every change, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let scanner = &mut *self.scanner.lock().await;
        let (hint, mut hints) = mpsc::channel(1);
        // Alive for as long as the folder is watched.
        let _watcher = watch(&scanner.dir, hint);
        scanner.tick().await;
        while scanner.settling() && !cancel.is_cancelled() {
            tokio::time::sleep(RETRY_INTERVAL).await;
            scanner.tick().await;
        }
        if scanner.changes.send(PluginChange::ScanComplete).await.is_err() {
            return cancel.cancelled().await;
        }
        loop {
            let wait = if scanner.settling() { RETRY_INTERVAL } else { SCAN_INTERVAL };
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = hints.recv() => tokio::time::sleep(self.debounce).await,
                () = tokio::time::sleep(wait) => {}
            }
            scanner.tick().await;
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

struct Scanner {
    dir: PathBuf,
    runtime: Arc<Runtime>,
    changes: mpsc::Sender<PluginChange>,
    provenance: Provenance,
    archive: PluginArchive,
    known: BTreeMap<String, SeenFile>,
}

impl Scanner {
    /// One scan of the folder; handles every file whose stamp changed.
    async fn tick(&mut self) {
        let listing = match list(&self.dir) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "the plugins folder cannot be read");
                return;
            }
        };
        let present: BTreeSet<&String> = listing.keys().collect();
        let gone: Vec<String> =
            self.known.keys().filter(|file| !present.contains(file)).cloned().collect();
        for file in gone {
            // Reported first: after a panic in between it is reported twice rather than never.
            let _ = self.changes.send(PluginChange::Removed { file: file.clone() }).await;
            self.known.remove(&file);
        }
        for (file, stamp) in listing {
            if self.known.get(&file).is_none_or(|known| known.stamp != stamp || known.retry) {
                self.handle(file, stamp).await;
            }
        }
    }

    /// Whether a file may be half-written.
    fn settling(&self) -> bool {
        self.known.values().any(|known| known.retry)
    }

    async fn handle(&mut self, file: String, stamp: Stamp) {
        let began = Instant::now();
        let settled =
            stamp.modified.and_then(|at| at.elapsed().ok()).is_none_or(|age| age >= SETTLED);
        let before = self.known.get(&file).and_then(|known| known.digest.clone());
        let loaded = self.load(&file, stamp).await;
        // What was read counts only if the file is still the same.
        let changed = stamp_of(&self.dir.join(&file)) != Some(stamp);
        if changed || (loaded.is_err() && !settled) {
            self.known.insert(file, SeenFile { stamp, digest: before, retry: true });
            return;
        }
        let (digest, change) = match loaded {
            Ok(linked) if before.as_ref() == Some(&linked.digest) => (before, None),
            Ok(linked) => {
                let digest = Arc::clone(&linked.digest);
                let plugin =
                    LoadedPlugin { file: file.clone(), linked, load_time: began.elapsed() };
                (Some(digest), Some(PluginChange::Loaded(Box::new(plugin))))
            }
            Err(error) => (None, Some(PluginChange::Failed { file: file.clone(), error })),
        };
        if let Some(change) = change {
            let _ = self.changes.send(change).await;
        }
        self.known.insert(file, SeenFile { stamp, digest, retry: false });
    }

    async fn load(&self, file: &str, stamp: Stamp) -> Result<Linked, String> {
        if stamp.size > FILE_MAX_BYTES {
            return Err(format!(
                "the file has {} bytes; the limit is {FILE_MAX_BYTES}",
                stamp.size
            ));
        }
        let path = self.dir.join(file);
        let content: Bytes = tokio::fs::read(&path)
            .await
            .map_err(|error| format!("cannot be read: {error}"))?
            .into();
        let verifying = {
            let (provenance, path, content) =
                (self.provenance.clone(), path.clone(), content.clone());
            tokio::task::spawn_blocking(move || provenance.verify(&path, &content))
        };
        verifying
            .await
            .map_err(|error| error.to_string())?
            .map_err(|refused| refused.to_string())?;
        let linked = self.runtime.load(content.clone()).await.map_err(|error| error.to_string())?;
        let (archive, digest) = (self.archive.clone(), Arc::clone(&linked.digest));
        let archiving = tokio::task::spawn_blocking(move || archive.add(&path, &content, &digest));
        if let Err(error) = archiving.await.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%file, %error, "the plugin could not be archived; it cannot be restored later");
        }
        Ok(linked)
    }
}

/// Every `*.wasm` that is not hidden.
fn list(dir: &Path) -> std::io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".").to_owned();
        if !name.starts_with('.')
            && path.extension().is_some_and(|end| end == "wasm")
            && let Some(stamp) = stamp_of(&path)
        {
            files.insert(name, stamp);
        }
    }
    Ok(files)
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let signed =
        std::fs::metadata(signature_of(path)).and_then(|signature| signature.modified()).ok();
    Some(Stamp {
        size: metadata.len(),
        modified: metadata.modified().ok(),
        inode: metadata.ino(),
        signed,
    })
}
