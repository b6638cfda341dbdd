//! An in-memory host for unit tests. State persists between calls; a failed call discards its writes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::{Context, Emit, Event, Failure, Host, Level, Stage};

/// An in-memory host with the state, settings and log of one stage.
#[derive(Debug, Default, Clone)]
pub struct MemoryHost {
    /// The stage's state.
    pub state: BTreeMap<String, Vec<u8>>,
    /// The settings of the stage.
    pub settings: BTreeMap<String, String>,
    /// The messages logged so far.
    pub log: RefCell<Vec<String>>,
    event_id: String,
}

impl MemoryHost {
    /// Adds a setting.
    #[must_use]
    pub fn with_setting(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Runs a stage on an event.
    ///
    /// # Errors
    /// The failure of the stage; its writes are discarded.
    pub fn handle<S: Stage>(&mut self, event: &Event) -> Result<Vec<Emit>, Failure> {
        let before = self.state.clone();
        self.event_id.clone_from(&event.id);
        let outcome = S::handle(&mut Context(self), event);
        if outcome.is_err() {
            self.state = before;
        }
        outcome
    }
}

impl Host for MemoryHost {
    fn stage(&self) -> String {
        "test".into()
    }

    fn attempt(&self) -> u32 {
        1
    }

    fn idempotency_key(&self) -> String {
        format!("key-of-{}", self.event_id)
    }

    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn remaining_ms(&self) -> u32 {
        1_000
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        self.state.insert(key.into(), value.into());
    }

    fn remove(&mut self, key: &str) {
        self.state.remove(key);
    }

    fn list_keys(&self, prefix: &str, after: &str, limit: u32) -> Vec<String> {
        let matching =
            self.state.keys().filter(|key| key.starts_with(prefix) && key.as_str() > after);
        matching.take(limit as usize).cloned().collect()
    }

    fn config(&self, key: &str) -> Option<String> {
        self.settings.get(key).cloned()
    }

    fn log(&self, _: Level, message: &str, _: &[(String, String)]) {
        self.log.borrow_mut().push(message.into());
    }
}
