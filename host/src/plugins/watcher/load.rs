//! Loads one plugin file: read → verify → compile → link → describe → archive.
//!
//! Each file is loaded in a task of its own, so that none waits for another one's compiler or
//! `describe`. Bounds: the size of a file; what bounds the runtime.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::listing::Look;
use crate::domain::clock::{Clock as _, SystemClock};
use crate::domain::event::hex;
use crate::pipeline::plugin_change::RefusedContent;
use crate::plugins::waiting::WaitingFor;
use crate::plugins::{FILE_MAX_BYTES, PluginFiles};
use crate::runtime::provenance::{PluginArchive, Provenance, Refused, signature_of};
use crate::runtime::{CompileStep, Linked, LoadError, Runtime};

/// What loading a file needs.
pub(super) struct Loader {
    pub(super) dir: PathBuf,
    pub(super) runtime: Arc<Runtime>,
    pub(super) provenance: Provenance,
    pub(super) archive: PluginArchive,
    /// Where it shows what it does.
    pub(super) files: Arc<PluginFiles>,
}

/// A file to load.
pub(super) struct Request {
    pub(super) file: String,
    pub(super) look: Look,
    /// Content that was handled before, and to which nothing else matters.
    pub(super) known: Option<Arc<str>>,
}

/// How a load ended.
pub(super) struct Finished {
    pub(super) result: Result<Loaded, Refusal>,
    pub(super) load_time: Duration,
}

pub(super) enum Loaded {
    /// The content is known.
    Unchanged,
    /// It can serve.
    New(Linked),
}

/// Why a file cannot serve.
pub(super) struct Refusal {
    pub(super) error: String,
    pub(super) waiting_for: WaitingFor,
    /// The content; none: it could not be read.
    pub(super) content: Option<RefusedContent>,
}

impl Refusal {
    /// Of a file whose content does not matter.
    pub(super) fn new(error: impl Into<String>, waiting_for: WaitingFor) -> Self {
        Self { error: error.into(), waiting_for, content: None }
    }

    /// Of this content.
    fn of(content: RefusedContent, error: impl Into<String>, waiting_for: WaitingFor) -> Self {
        Self { error: error.into(), waiting_for, content: Some(content) }
    }

    /// The digest of the content, if nothing but other content helps.
    pub(super) fn settled_digest(&self) -> Option<Arc<str>> {
        let content = self.content.as_ref().filter(|_| self.waiting_for == WaitingFor::Content);
        content.and_then(|content| content.digest.clone())
    }
}

impl Loader {
    pub(super) async fn run(self: Arc<Self>, request: Request) -> Finished {
        let began = Instant::now();
        let result = self.load(&request).await;
        Finished { result, load_time: began.elapsed() }
    }

    async fn load(self: &Arc<Self>, request: &Request) -> Result<Loaded, Refusal> {
        let size = match &request.look {
            Look::File(stamp, _) => stamp.size,
            Look::Unreadable(why) => {
                return Err(Refusal::new(why, WaitingFor::ReadableFile));
            }
        };
        if size > FILE_MAX_BYTES {
            let error = format!("the file has {size} bytes; the limit is {FILE_MAX_BYTES}");
            let content = RefusedContent { digest: None };
            return Err(Refusal::of(content, error, WaitingFor::Content));
        }
        let path = self.dir.join(&request.file);
        let reading = {
            let (loader, path) = (Arc::clone(self), path.clone());
            tokio::task::spawn_blocking(move || loader.read(&path))
        };
        let (content, digest) = reading
            .await
            .map_err(|error| Refusal::new(error.to_string(), WaitingFor::ReadableFile))??;
        if request.known.as_ref() == Some(&digest) {
            return Ok(Loaded::Unchanged);
        }
        let compilation = Compilation::new(&self.files, &request.file, content.len());
        let report = |step| compilation.report(step);
        let linked = self.runtime.load_known(Arc::clone(&digest), content.clone(), &report).await;
        drop(compilation);
        let linked = linked.map_err(|error| refused(&error, digest))?;
        self.archive(path, content, &linked.digest).await;
        Ok(Loaded::New(linked))
    }

    /// The content of a file that may be loaded, and its digest.
    fn read(&self, path: &Path) -> Result<(Bytes, Arc<str>), Refusal> {
        let mut content = Vec::new();
        // One that grows meanwhile is not read to its end.
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut content))
            .map_err(|error| {
                Refusal::new(format!("it cannot be read: {error}"), WaitingFor::ReadableFile)
            })?;
        let digest: Arc<str> = hex(&Sha256::digest(&content)).into();
        self.provenance.verify(path, &content, &digest).map_err(|refused| {
            let waiting_for = match &refused {
                Refused::NotListed(_) => {
                    WaitingFor::Configuration("its digest in plugins.digests".to_owned())
                }
                Refused::NotSigned(_)
                | Refused::Sent
                | Refused::Unreadable(..)
                | Refused::Untrusted(_) => WaitingFor::Signature(
                    signature_of(path)
                        .file_name()
                        .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
                ),
            };
            let content = RefusedContent { digest: Some(Arc::clone(&digest)) };
            Refusal::of(content, refused.to_string(), waiting_for)
        })?;
        Ok((content.into(), digest))
    }

    async fn archive(&self, path: PathBuf, content: Bytes, digest: &Arc<str>) {
        let (archive, digest) = (self.archive.clone(), Arc::clone(digest));
        let shown = path.display().to_string();
        let archiving = tokio::task::spawn_blocking(move || archive.add(&path, &content, &digest));
        if let Err(error) = archiving.await.map_err(std::io::Error::other).flatten() {
            tracing::warn!(file = %shown, %error, "the plugin could not be archived; it cannot be restored later");
        }
    }
}

/// Shows a file as being compiled, until it is dropped.
struct Compilation<'a> {
    files: &'a PluginFiles,
    file: &'a str,
    bytes: usize,
    started: OnceLock<Instant>,
}

impl<'a> Compilation<'a> {
    fn new(files: &'a PluginFiles, file: &'a str, bytes: usize) -> Self {
        Self { files, file, bytes, started: OnceLock::new() }
    }

    fn report(&self, step: CompileStep) {
        let (file, bytes) = (self.file, self.bytes);
        match step {
            CompileStep::Queued => {
                let now_ms = SystemClock.now_ms();
                self.files.update(file, |status| status.compiling_since_ms = Some(now_ms));
            }
            CompileStep::Started => {
                let _ = self.started.set(Instant::now());
                tracing::info!(file, bytes, "compiling plugin");
            }
        }
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        if let Some(started) = self.started.get() {
            let compile_ms = started.elapsed().as_millis() as u64;
            tracing::info!(file = self.file, compile_ms, "compilation of plugin ended");
        }
        self.files.update(self.file, |status| status.compiling_since_ms = None);
    }
}

fn refused(error: &LoadError, digest: Arc<str>) -> Refusal {
    let waiting_for = if error.may_pass() { WaitingFor::AnotherTry } else { WaitingFor::Content };
    Refusal::of(RefusedContent { digest: Some(digest) }, error.to_string(), waiting_for)
}
