//! A stage's state while a batch runs: a call's own writes over those of the batch over the lane's
//! cache over the store.
//!
//! The version check in the store's commit carries the guarantee; the cache only saves reads.
//! [`BatchState`] keeps every version that a call of the batch relied on, those of failed and
//! timed-out calls included, so an outcome based on stale data is never committed. Bounds: keys,
//! values and bytes for each call by [`StateLimits`]; the cache by its number of entries.

mod lane_cache;
mod overlay;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::lane_cache::Cached;
pub use self::lane_cache::LaneCache;
use self::overlay::Overlay;
use crate::domain::subject::SubjectKey;
use crate::stage::outcome::{Failure, Limit, Outcome};
use crate::stage::recording::{ListQuery, Recorder};
use crate::stage::state_writes::StateWrites;
use crate::store::{StateRow, StateSource, StoreError, Version};

/// Bounds on what one call may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// Longest key, in bytes.
    pub key_max_bytes: usize,
    /// Largest value, in bytes.
    pub value_max_bytes: usize,
    /// Keys and values written by one call, in bytes.
    pub call_max_bytes: usize,
    /// Keys that one `list_keys` returns at most.
    pub list_max: u32,
}

/// Why a state operation ended the call.
///
/// ```
/// use postrider::{StateError, StateView};
///
/// /// An oversized note is dropped; whatever else goes wrong ends the call.
/// fn note(state: &mut StateView, text: String) -> Result<(), StateError> {
///     match state.set("note".to_owned(), text.into()) {
///         Err(StateError::Limit { .. }) => Ok(()),
///         other => other,
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The stage exceeded a limit: its message is dead-lettered with the name of the limit.
    #[error("{message}")]
    Limit {
        /// The limit that was exceeded.
        limit: Limit,
        /// The actual value and the allowed one.
        message: String,
    },
    /// The store could not be read. This does not count as an attempt.
    #[error("the store could not be read")]
    Store(#[from] StoreError),
}

impl StateError {
    /// The outcome of a call that this error ended.
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Limit { limit, message } => Outcome::LimitExceeded { limit, message },
            Self::Store(error) if error.is_transient() => Outcome::Unavailable(error.to_string()),
            // Waiting cannot help: a person has to look at it.
            Self::Store(error) => Outcome::Failed(Failure::reject("store", error.to_string())),
        }
    }
}

/// Shared by the messages of one batch.
pub struct BatchState {
    stage: Arc<str>,
    store: Arc<dyn StateSource>,
    limits: StateLimits,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Writes of the calls that succeeded so far.
    layer: StateWrites,
    /// Versions that calls relied on; 0 for a key that never existed.
    reads: HashMap<String, Version>,
    cache: LaneCache,
    /// Folders of subjects (`order/123/`) whose every stored key is in `cache` or known absent.
    folders: BTreeSet<String>,
    prefetched: HashMap<String, Cached>,
}

impl BatchState {
    /// State for one batch; it holds the lane's cache until [`BatchState::finish`].
    pub fn new(
        stage: Arc<str>,
        store: Arc<dyn StateSource>,
        limits: StateLimits,
        mut cache: LaneCache,
    ) -> Arc<Self> {
        cache.expire();
        let inner = Inner {
            layer: BTreeMap::new(),
            reads: HashMap::new(),
            cache,
            folders: BTreeSet::new(),
            prefetched: HashMap::new(),
        };
        Arc::new(Self { stage, store, limits, inner: Mutex::new(inner) })
    }

    /// Reads every key under `<subject>/` for all subjects in one query, so that the reads of
    /// the calls need none.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn prefetch(&self, subjects: &BTreeSet<SubjectKey>) -> Result<(), StoreError> {
        let folders: Vec<String> = subjects.iter().map(|subject| format!("{subject}/")).collect();
        let rows = self.store.state_folders(&self.stage, &folders).await?;
        let mut inner = self.lock();
        inner.prefetched.extend(rows.into_iter().map(|row| (row.key, (row.value, row.version))));
        inner.folders.extend(folders);
        Ok(())
    }

    /// A view for one call.
    pub fn view(self: &Arc<Self>) -> StateView {
        self.recorded_view(Recorder::default())
    }

    /// A view for one call whose reads are recorded.
    pub fn recorded_view(self: &Arc<Self>, recorder: Recorder) -> StateView {
        StateView { batch: Arc::clone(self), own: BTreeMap::new(), bytes_written: 0, recorder }
    }

    /// Adds the writes of a successful call; the calls after it see them.
    pub fn merge(&self, writes: StateWrites) {
        self.lock().layer.extend(writes);
    }

    /// Ends the batch. Returns the versions that it relied on, its final writes, and the lane's
    /// cache.
    pub fn finish(&self) -> (HashMap<String, Version>, StateWrites, LaneCache) {
        let mut inner = self.lock();
        (
            std::mem::take(&mut inner.reads),
            std::mem::take(&mut inner.layer),
            std::mem::replace(&mut inner.cache, LaneCache::placeholder()),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.lock().known(key) {
            return Ok(value);
        }
        let row = self.store.state_get(&self.stage, key).await?;
        let (value, version) = row.map_or((None, 0), |row: StateRow| (row.value, row.version));
        let mut inner = self.lock();
        inner.reads.entry(key.to_owned()).or_insert(version);
        inner.cache.entries.put(key.to_owned(), (value.clone(), version));
        Ok(value)
    }

    async fn list_keys(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let layer = Overlay::of(&self.lock().layer, prefix, after);
        let stored = self
            .store
            .state_keys(&self.stage, prefix, after, (limit + layer.removed()) as u32)
            .await?;
        Ok(layer.over(stored, limit))
    }
}

impl Inner {
    fn known(&mut self, key: &str) -> Option<Option<Bytes>> {
        if let Some(value) = self.layer.get(key) {
            return Some(value.clone());
        }
        let (value, version) = self
            .prefetched
            .get(key)
            .cloned()
            .or_else(|| self.cache.entries.get(key).cloned())
            .or_else(|| self.in_fetched_folder(key).then_some((None, 0)))?;
        self.reads.entry(key.to_owned()).or_insert(version);
        Some(value)
    }

    fn in_fetched_folder(&self, key: &str) -> bool {
        let mut slashes = key.match_indices('/');
        slashes.nth(1).is_some_and(|(second, _)| self.folders.contains(&key[..=second]))
    }
}

/// A stage's state as one call sees it.
///
/// ```
/// use postrider::{StateError, StateView};
///
/// /// Returns whether the stage has seen the customer before, and remembers the customer.
/// async fn seen(state: &mut StateView, customer: &str) -> Result<bool, StateError> {
///     let key = format!("customer/{customer}");
///     let seen = state.get(&key).await?.is_some();
///     state.set(key, "".into())?;
///     Ok(seen)
/// }
/// ```
pub struct StateView {
    batch: Arc<BatchState>,
    own: StateWrites,
    bytes_written: usize,
    /// Records reads, except those of the call's own writes.
    recorder: Recorder,
}

impl StateView {
    /// The value under `key`, as written by this call, by earlier calls of the batch, or as
    /// committed.
    ///
    /// # Errors
    ///
    /// When the key exceeds a limit or the store cannot be read.
    pub async fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateError> {
        self.check_key(key)?;
        match self.own.get(key) {
            Some(value) => Ok(value.clone()),
            None => {
                let value = self.batch.get(key).await?;
                self.recorder.read(key, value.as_ref());
                Ok(value)
            }
        }
    }

    /// Writes `value` under `key` if the call succeeds.
    ///
    /// # Errors
    ///
    /// When the key, the value or the bytes of the call exceed a limit.
    pub fn set(&mut self, key: String, value: Bytes) -> Result<(), StateError> {
        self.check_key(&key)?;
        let max = self.batch.limits.value_max_bytes;
        if value.len() > max {
            return Err(StateError::Limit {
                limit: Limit::StateValue,
                message: format!(
                    "the value of `{key}` has {} bytes; the limit is {max}",
                    value.len()
                ),
            });
        }
        self.count(key.len() + value.len())?;
        self.own.insert(key, Some(value));
        Ok(())
    }

    /// Removes `key` if the call succeeds.
    ///
    /// # Errors
    ///
    /// When the key or the bytes of the call exceed a limit.
    pub fn remove(&mut self, key: String) -> Result<(), StateError> {
        self.check_key(&key)?;
        self.count(key.len())?;
        self.own.insert(key, None);
        Ok(())
    }

    /// Keys with `prefix` that sort after `after`, at most `limit`. The list is a snapshot that the
    /// commit does not check.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn list_keys(
        &mut self,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StateError> {
        let limit = limit.min(self.batch.limits.list_max) as usize;
        let own = Overlay::of(&self.own, prefix, after);
        let asked = limit + own.removed();
        let below = self.batch.list_keys(prefix, after, asked).await?;
        let question = ListQuery { prefix, after, limit: asked as u32 };
        self.recorder.listed(question, &below);
        Ok(own.over(below, limit))
    }

    /// The writes of this call.
    pub fn into_writes(self) -> StateWrites {
        self.own
    }

    fn check_key(&self, key: &str) -> Result<(), StateError> {
        let max = self.batch.limits.key_max_bytes;
        if key.len() > max {
            let message = format!("a state key has {} bytes; the limit is {max}", key.len());
            return Err(StateError::Limit { limit: Limit::StateKey, message });
        }
        if key.contains('\0') {
            return Err(StateError::Limit {
                limit: Limit::StateKey,
                message: "a state key has a NUL character".to_owned(),
            });
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), StateError> {
        self.bytes_written += bytes;
        let max = self.batch.limits.call_max_bytes;
        if self.bytes_written > max {
            let message =
                format!("the call wrote {} bytes of state; the limit is {max}", self.bytes_written);
            return Err(StateError::Limit { limit: Limit::StateBytes, message });
        }
        Ok(())
    }
}
