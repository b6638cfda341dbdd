//! A state source that answers from a recording. A read that was not recorded ends the call.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::stage::recording::{ListQuery, RecordedInputs};
use crate::store::{StateRow, StateSource, StoreError};

pub(super) struct RecordedState {
    given: RecordedInputs,
    missed: Mutex<Option<String>>,
}

impl RecordedState {
    pub(super) fn new(given: RecordedInputs) -> Self {
        Self { given, missed: Mutex::default() }
    }

    /// The first read that was not recorded.
    pub(super) fn missed(&self) -> Option<String> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn miss<T>(&self, what: String) -> Result<T, StoreError> {
        self.missed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| what.clone());
        Err(StoreError::Unavailable(what))
    }
}

#[async_trait]
impl StateSource for RecordedState {
    async fn state_get(&self, _: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        match self.given.reads.get(key) {
            Some(value) => Ok(value.as_ref().map(|value| StateRow {
                key: key.to_owned(),
                value: Some(value.0.clone()),
                version: 1,
            })),
            None => self.miss(format!("the state key `{key}` was not recorded")),
        }
    }

    /// A replay does not prefetch.
    async fn state_folders(&self, _: &str, _: &[String]) -> Result<Vec<StateRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn state_keys(
        &self,
        _: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let query = ListQuery { prefix, after, limit };
        match self.given.lists.iter().find(|list| list.answers(query)) {
            Some(list) => Ok(list.keys.iter().take(limit as usize).cloned().collect()),
            None => self.miss(format!(
                "the list of {limit} keys with `{prefix}` after `{after}` was not recorded"
            )),
        }
    }
}
