//! Candidates: plugins that someone sends to the host to compare them with what serves. None of them
//! serves.
//!
//! What bounds them is what bounds a file of the folder: its size, the policy, the static limits and
//! the compiler's process. A candidate runs in an engine of its own, without outbound calls, and
//! its code is not kept: it takes no instance of a stage, and is gone with its comparison.

use std::sync::Arc;
#[cfg(feature = "wasm")]
use std::sync::{OnceLock, Weak};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::domain::event::hex;
use crate::runtime::provenance::{Provenance, Refused};
#[cfg(feature = "wasm")]
use crate::runtime::{InstancePolicy, LoadError, Pool, Runtime, WasmStage};
use crate::runtime::{RuntimeSettings, StageLimits};
use crate::stage::handler::StageHandler;

/// Why a candidate cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// The policy of the plugins folder does not admit it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is no plugin that this host can run: why.
    #[error("{0}")]
    Invalid(String),
    /// The host cannot load it now: why.
    #[error("{0}")]
    Unavailable(String),
}

/// A component that was sent.
pub struct Candidate {
    #[cfg_attr(not(feature = "wasm"), expect(dead_code, reason = "no engine is started"))]
    content: Bytes,
    /// SHA-256, in hex.
    pub digest: Arc<str>,
}

impl Candidate {
    /// Computes its digest, off the async threads: it may be large.
    pub async fn of(content: Bytes) -> Result<Self, CandidateError> {
        let hashing = tokio::task::spawn_blocking(move || {
            let digest = hex(&Sha256::digest(&content)).into();
            Self { content, digest }
        });
        hashing.await.map_err(|error| CandidateError::Unavailable(error.to_string()))
    }
}

/// Loads candidates.
pub struct Candidates {
    #[cfg_attr(not(feature = "wasm"), expect(dead_code, reason = "no engine is started"))]
    settings: RuntimeSettings,
    provenance: Provenance,
    /// The engine of what serves, if there is one. Weak: it ends with its host.
    #[cfg(feature = "wasm")]
    serving: OnceLock<Weak<Runtime>>,
}

impl Candidates {
    /// Loads candidates as these settings and this policy say.
    pub fn new(settings: RuntimeSettings, provenance: Provenance) -> Self {
        Self {
            settings,
            provenance,
            #[cfg(feature = "wasm")]
            serving: OnceLock::new(),
        }
    }

    /// Compilations of candidates wait for those of this engine, and the other way round.
    #[cfg(feature = "wasm")]
    pub fn compile_beside(&self, serving: &Arc<Runtime>) {
        let _ = self.serving.set(Arc::downgrade(serving));
    }

    /// Verifies, compiles, links and describes a candidate, which runs within `limits`.
    #[cfg(feature = "wasm")]
    pub async fn load(
        &self,
        Candidate { content, digest }: Candidate,
        limits: StageLimits,
    ) -> Result<Arc<dyn StageHandler>, CandidateError> {
        self.provenance.verify_sent(&digest)?;
        let serving = self.serving.get().and_then(Weak::upgrade);
        let settings = self.settings.clone();
        let starting = tokio::task::spawn_blocking(move || match serving {
            Some(serving) => serving.apart(),
            None => {
                let pool = Pool::OnDemand;
                Runtime::new(RuntimeSettings { cache_dir: None, pool, ..settings })
            }
        });
        let runtime = starting.await;
        let runtime = runtime.map_err(|error| CandidateError::Unavailable(error.to_string()))??;
        let linked = runtime.load_known(digest, content, &|_| {}).await?;
        Ok(Arc::new(WasmStage::new(&linked, limits, InstancePolicy::Fresh)))
    }

    /// Refuses a candidate: there is no engine.
    #[cfg(not(feature = "wasm"))]
    #[allow(clippy::unused_async, reason = "as with the feature")]
    pub async fn load(
        &self,
        candidate: Candidate,
        _: StageLimits,
    ) -> Result<Arc<dyn StageHandler>, CandidateError> {
        self.provenance.verify_sent(&candidate.digest)?;
        let why = "this program is built without the feature `wasm`, and runs no plugins";
        Err(CandidateError::Invalid(why.to_owned()))
    }
}

#[cfg(feature = "wasm")]
impl From<LoadError> for CandidateError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Engine(_) | LoadError::CompileTime(_) => {
                Self::Unavailable(error.to_string())
            }
            _ => Self::Invalid(error.to_string()),
        }
    }
}
