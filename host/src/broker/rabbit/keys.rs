//! The keys of this host: what it signs its messages with, and whose messages it accepts.
//!
//! The newest key of the store signs. A message that names an unknown key, because another host has
//! added one, leads to a look-up in the store before it is judged: one for all messages that arrive
//! together, and none for a name that was looked up before and not found (up to [`UNKNOWN_MAX`] names).
//! While the store does not answer, such messages wait.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lru::LruCache;

use super::signature::Signer;
use crate::store::{MessageKey, Store, StoreError};

/// Names of keys that the store does not have.
const UNKNOWN_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not 0");
/// Pause after the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The keys of a host.
pub struct MessageKeys {
    /// None: no other host has these keys.
    store: Option<Arc<dyn Store>>,
    /// The newest first; never empty.
    signers: ArcSwap<Vec<Signer>>,
    unknown: Mutex<LruCache<String, ()>>,
}

impl MessageKeys {
    /// The keys of a store, which gets its first one if it has none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open(store: Arc<dyn Store>, now_ms: u64) -> Result<Arc<Self>, StoreError> {
        let keys = store.message_keys_or(MessageKey::generate(now_ms)).await?;
        Ok(Arc::new(Self::new(Some(store), &keys)))
    }

    /// A key that no other process has: for a broker whose messages no other host reads.
    pub fn of_process() -> Arc<Self> {
        Arc::new(Self::new(None, &[MessageKey::generate(0)]))
    }

    fn new(store: Option<Arc<dyn Store>>, keys: &[MessageKey]) -> Self {
        let signers = ArcSwap::from_pointee(keys.iter().map(Signer::new).collect());
        Self { store, signers, unknown: Mutex::new(LruCache::new(UNKNOWN_MAX)) }
    }

    /// The keys that are accepted; the first one signs.
    pub(super) fn signers(&self) -> Arc<Vec<Signer>> {
        self.signers.load_full()
    }

    /// Reads the keys again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let keys = store.message_keys().await?;
        // Without a key the host could not sign; a table that was emptied by hand is filled again
        // when a host starts.
        if !keys.is_empty() {
            self.signers.store(Arc::new(keys.iter().map(Signer::new).collect()));
        }
        Ok(())
    }

    /// Looks these keys up in the store, unless they are known; waits while it does not answer.
    pub(super) async fn learn(&self, ids: impl Iterator<Item = &str>) {
        let signers = self.signers.load();
        let mut missing: Vec<&str> =
            ids.filter(|id| !signers.iter().any(|signer| signer.id() == *id)).collect();
        drop(signers);
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|id| !self.unknown().contains(*id));
        if missing.is_empty() {
            return;
        }
        while let Err(error) = self.refresh().await {
            tracing::debug!(%error, "waiting for the keys of other hosts");
            tokio::time::sleep(PAUSE).await;
        }
        let signers = self.signers.load();
        let mut unknown = self.unknown();
        for id in missing {
            if !signers.iter().any(|signer| signer.id() == id) {
                unknown.put(id.to_owned(), ());
            }
        }
    }

    fn unknown(&self) -> std::sync::MutexGuard<'_, LruCache<String, ()>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
