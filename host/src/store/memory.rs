//! State in memory, for running a plugin without any service.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

use super::{StateRow, StateSource, StoreError};

/// Keys and values; every version is 1.
pub struct MemoryState(pub BTreeMap<String, Bytes>);

impl MemoryState {
    fn row(key: &str, value: &Bytes) -> StateRow {
        StateRow { key: key.to_owned(), value: Some(value.clone()), version: 1 }
    }
}

#[async_trait]
impl StateSource for MemoryState {
    async fn state_get(&self, _: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        Ok(self.0.get(key).map(|value| Self::row(key, value)))
    }

    async fn state_folders(
        &self,
        _: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        let inside = |key: &String| folders.iter().any(|folder| key.starts_with(folder));
        Ok(self
            .0
            .iter()
            .filter(|(key, _)| inside(key))
            .map(|(key, value)| Self::row(key, value))
            .collect())
    }

    async fn state_keys(
        &self,
        _: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let matching = self.0.keys().filter(|key| key.starts_with(prefix) && key.as_str() > after);
        Ok(matching.take(limit as usize).cloned().collect())
    }
}
