//! The stages' state: versioned keys, and their locks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Batch, Commit, StoreError};

/// Version of a state key: 0 means that it never existed; versions grow for ever, also over a
/// removal.
pub type Version = i64;

/// A key of a stage's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The key.
    pub key: String,
    /// None: removed; the version keeps growing.
    pub value: Option<Bytes>,
    /// Its version.
    pub version: Version,
}

/// Reads a stage's state.
#[async_trait]
pub trait StateSource: Send + Sync + 'static {
    /// One key.
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError>;
    /// All keys (removed ones included) in the folders, each of which ends with `/`.
    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError>;
    /// Present keys with `prefix` after `after`, in byte order.
    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError>;
}

/// Locked keys of a stage's state: no other transaction writes them until the batch is committed or
/// this is dropped.
#[async_trait]
pub trait LockedState: Send {
    /// The locked keys; version 0: absent.
    fn rows(&self) -> &[StateRow];
    /// Reads state while the lock is held, without taking a further connection.
    fn source(&self) -> Arc<dyn StateSource>;
    /// Settles the batch, as [`Store::commit`](super::Store::commit) does.
    async fn commit(self: Box<Self>, batch: Batch) -> Result<Commit, StoreError>;
}
