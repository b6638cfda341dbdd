//! The cache of a lane. It only saves reads: the commit's version check finds stale values.
//!
//! Bounds: its number of entries, and [`AGE_MAX`]: the store forgets the version of a removed key
//! later than that.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;

use crate::store::Version;

/// A value with its version.
pub(super) type Cached = (Option<Bytes>, Version);

/// Values that a lane keeps between batches. The next commit checks whether they are current.
pub struct LaneCache {
    pub(super) entries: LruCache<String, Cached>,
    emptied_at: Instant,
}

/// A cache is emptied after this long.
const AGE_MAX: Duration = Duration::from_mins(10);

impl LaneCache {
    /// An empty cache of at most `entries` keys.
    pub fn new(entries: NonZeroUsize) -> Self {
        Self { entries: LruCache::new(entries), emptied_at: Instant::now() }
    }

    /// Takes the place of a cache that a batch borrows. A full-size cache would allocate its table
    /// for every batch.
    pub fn placeholder() -> Self {
        Self::new(NonZeroUsize::MIN)
    }

    /// Removes all keys and keeps the table allocated.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.emptied_at = Instant::now();
    }

    /// Empties a cache that is too old.
    pub(super) fn expire(&mut self) {
        if self.emptied_at.elapsed() > AGE_MAX {
            self.clear();
        }
    }

    /// Removes keys whose values are stale.
    pub fn remove<'a>(&mut self, keys: impl IntoIterator<Item = &'a String>) {
        for key in keys {
            self.entries.pop(key);
        }
    }

    /// Stores what a commit wrote, with the versions it assigned.
    pub fn store(&mut self, written: impl IntoIterator<Item = (String, Option<Bytes>, Version)>) {
        for (key, value, version) in written {
            self.entries.put(key, (value, version));
        }
    }
}
