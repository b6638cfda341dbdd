//! The plugins folder: what changes in it is compiled, linked and described before anybody hears of
//! it.
//!
//! `notify` only says that it is worth looking; what counts is the content. A file that cannot be
//! loaded while it was written a moment ago is looked at again until it stops changing, so a
//! half-written file is never reported. Bounds: one file is read at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pipeline::plugin_change::{LoadedPlugin, PluginChange};
use crate::runtime::provenance::{PluginArchive, Provenance, signature_of};
use crate::runtime::{Linked, Runtime};

/// The folder is looked at this often even when nothing was reported: events can be lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// A file that cannot be loaded is taken for half-written until it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(500);
/// Larger files are refused unread.
const FILE_MAX_BYTES: u64 = 256 << 20;

/// A watched folder.
pub struct PluginFolder {
    /// Every `*.wasm` in it is a plugin.
    pub dir: PathBuf,
    /// Changes are gathered for this long before files are read.
    pub debounce_ms: u64,
    /// Which files are loaded.
    pub provenance: Provenance,
    /// Where what was loaded is kept.
    pub kept: PluginArchive,
}

/// What a file looked like; the same again means that nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    size: u64,
    modified: Option<SystemTime>,
    inode: u64,
    signed: Option<SystemTime>,
}

/// A file as it was last handled.
struct Known {
    look: Look,
    digest: Option<Arc<str>>,
    /// It could not be loaded, and may still be half-written.
    retry: bool,
}

impl PluginFolder {
    /// Reports what is there, then every change, until cancelled.
    pub async fn run(
        self,
        runtime: Arc<Runtime>,
        changes: mpsc::Sender<PluginChange>,
        cancel: CancellationToken,
    ) {
        let (hint, mut hints) = mpsc::channel(1);
        // PluginArchive alive for as long as the folder is followed.
        let _watcher = watch(&self.dir, hint);
        let Self { dir, debounce_ms, provenance, kept } = self;
        let mut scanner =
            Scanner { dir, runtime, changes, provenance, kept, known: BTreeMap::new() };
        scanner.tick().await;
        while scanner.settling() && !cancel.is_cancelled() {
            tokio::time::sleep(SETTLED / 10).await;
            scanner.tick().await;
        }
        if scanner.changes.send(PluginChange::ScanComplete).await.is_err() {
            return;
        }
        loop {
            let look_again = if scanner.settling() { SETTLED / 10 } else { LOOK_ANYWAY };
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = hints.recv() => tokio::time::sleep(Duration::from_millis(debounce_ms)).await,
                () = tokio::time::sleep(look_again) => {}
            }
            scanner.tick().await;
        }
    }
}

/// The operating system's watcher; without one the folder is still looked at every [`LOOK_ANYWAY`].
fn watch(dir: &Path, hint: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full channel already asks for a look.
            let _ = hint.try_send(());
        }
    });
    let started = watcher
        .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
    started
        .inspect_err(
            |error| tracing::warn!(%error, dir = %dir.display(), "the plugins folder cannot be watched; it is looked at regularly"),
        )
        .ok()
}

struct Scanner {
    dir: PathBuf,
    runtime: Arc<Runtime>,
    changes: mpsc::Sender<PluginChange>,
    provenance: Provenance,
    kept: PluginArchive,
    known: BTreeMap<String, Known>,
}

impl Scanner {
    /// One look at the folder; handles every file that looks different from the last time.
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
            self.known.remove(&file);
            let _ = self.changes.send(PluginChange::Removed { file }).await;
        }
        for (file, look) in listing {
            if self.known.get(&file).is_none_or(|known| known.look != look || known.retry) {
                self.handle(file, look).await;
            }
        }
    }

    /// Whether a file could not be loaded and may still be in the making.
    fn settling(&self) -> bool {
        self.known.values().any(|known| known.retry)
    }

    async fn handle(&mut self, file: String, look: Look) {
        let began = Instant::now();
        let settled =
            look.modified.and_then(|at| at.elapsed().ok()).is_none_or(|age| age >= SETTLED);
        let before = self.known.get(&file).and_then(|known| known.digest.clone());
        let loaded = self.load(&file, look).await;
        // What was read counts only if the file is still the same.
        if look_at(&self.dir.join(&file)) != Some(look) {
            self.known.insert(file, Known { look, digest: before, retry: true });
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
            Err(_) if !settled => {
                self.known.insert(file, Known { look, digest: before, retry: true });
                return;
            }
            Err(error) => (None, Some(PluginChange::Failed { file: file.clone(), error })),
        };
        self.known.insert(file, Known { look, digest, retry: false });
        if let Some(change) = change {
            let _ = self.changes.send(change).await;
        }
    }

    async fn load(&self, file: &str, look: Look) -> Result<Linked, String> {
        if look.size > FILE_MAX_BYTES {
            return Err(format!("the file has {} bytes; the limit is {FILE_MAX_BYTES}", look.size));
        }
        let path = self.dir.join(file);
        let content: Bytes = tokio::fs::read(&path)
            .await
            .map_err(|error| format!("cannot be read: {error}"))?
            .into();
        let vetting = {
            let (provenance, path, content) =
                (self.provenance.clone(), path.clone(), content.clone());
            tokio::task::spawn_blocking(move || provenance.verify(&path, &content))
        };
        vetting.await.map_err(|error| error.to_string())?.map_err(|refused| refused.to_string())?;
        let linked = self.runtime.load(content.clone()).await.map_err(|error| error.to_string())?;
        let (kept, digest) = (self.kept.clone(), Arc::clone(&linked.digest));
        let keeping = tokio::task::spawn_blocking(move || kept.keep(&path, &content, &digest));
        if let Err(error) = keeping.await.map_err(std::io::Error::other).and_then(|kept| kept) {
            tracing::warn!(%file, %error, "the plugin could not be kept; it cannot be put back later");
        }
        Ok(linked)
    }
}

/// Every `*.wasm` that is not hidden.
fn list(dir: &Path) -> std::io::Result<BTreeMap<String, Look>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".").to_owned();
        if !name.starts_with('.')
            && path.extension().is_some_and(|end| end == "wasm")
            && let Some(look) = look_at(&path)
        {
            files.insert(name, look);
        }
    }
    Ok(files)
}

fn look_at(path: &Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let signed =
        std::fs::metadata(signature_of(path)).and_then(|signature| signature.modified()).ok();
    Some(Look {
        size: metadata.len(),
        modified: metadata.modified().ok(),
        inode: metadata.ino(),
        signed,
    })
}
