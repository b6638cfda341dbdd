//! The recorder: collects the answers that a call gets while it runs.
//!
//! Bounds: `recording.max_bytes` for the answers of one call. A disabled recorder costs a branch.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Decided, JsonBytes, ListQuery, Listed, RecordedInputs, Recording};
use crate::stage::settings::Settings;

/// Assumed overhead of a key or a value.
const ENTRY_BYTES: usize = 8;

/// Records the answers that a call gets. Clones share their record; [`Recorder::default`] records
/// nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Mutex<Notes>>>);

#[derive(Debug)]
struct Notes {
    max_bytes: usize,
    /// What must not be recorded is in here.
    settings: Arc<Settings>,
    bytes: usize,
    given: RecordedInputs,
}

impl Recorder {
    /// A recorder that keeps at most `max_bytes`, and writes a document of at most `max_bytes`. It
    /// leaves out entries that hold a secret of `settings`.
    pub fn new(max_bytes: usize, settings: Arc<Settings>) -> Self {
        Self(Some(Arc::new(Mutex::new(Notes {
            max_bytes,
            settings,
            bytes: 0,
            given: RecordedInputs::default(),
        }))))
    }

    /// Records a value that was read from state, unless the call wrote it itself.
    pub(crate) fn read(&self, key: &str, value: Option<&Bytes>) {
        self.note(
            &[key.as_bytes(), value.map_or(&[], |value| value)],
            |given| !given.reads.contains_key(key),
            |given| _ = given.reads.insert(key.to_owned(), value.cloned().map(JsonBytes)),
        );
    }

    /// Records an answer of `list-keys` without the call's own writes.
    pub(crate) fn listed(&self, query: ListQuery<'_>, keys: &[String]) {
        let ListQuery { prefix, after, limit } = query;
        let texts: Vec<&[u8]> = [prefix, after]
            .into_iter()
            .chain(keys.iter().map(String::as_str))
            .map(str::as_bytes)
            .collect();
        let is_new = |given: &RecordedInputs| !given.lists.iter().any(|list| list.answers(query));
        let listed = || Listed {
            prefix: prefix.to_owned(),
            after: after.to_owned(),
            limit,
            keys: keys.to_vec(),
        };
        self.note(&texts, is_new, |given| given.lists.push(listed()));
    }

    /// Records a setting that the stage read. It must not be a secret.
    pub(crate) fn setting(&self, key: &str, value: Option<&str>) {
        let texts = [key.as_bytes(), value.unwrap_or_default().as_bytes()];
        let add = |given: &mut RecordedInputs| {
            _ = given.settings.insert(key.to_owned(), value.map(str::to_owned));
        };
        self.note(&texts, |given| !given.settings.contains_key(key), add);
    }

    fn note(
        &self,
        texts: &[&[u8]],
        is_new: impl FnOnce(&RecordedInputs) -> bool,
        add: impl FnOnce(&mut RecordedInputs),
    ) {
        let Some(notes) = &self.0 else { return };
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_new(&notes.given) {
            return;
        }
        let size: usize = texts.iter().map(|text| text.len() + ENTRY_BYTES).sum();
        let bytes = notes.bytes.saturating_add(size);
        if bytes > notes.max_bytes || texts.iter().any(|text| notes.settings.has_secret_in(text)) {
            notes.given.incomplete = true;
            return;
        }
        notes.bytes = bytes;
        add(&mut notes.given);
    }

    /// The answers so far.
    pub fn given(&self) -> RecordedInputs {
        self.0
            .as_ref()
            .map(|notes| notes.lock().unwrap_or_else(PoisonError::into_inner).given.clone())
            .unwrap_or_default()
    }

    /// The document in JSON, if recording is on and the call led to a decision.
    pub(crate) fn finish(
        self,
        now_ms: u64,
        decided: impl FnOnce() -> Option<Decided>,
    ) -> Option<String> {
        let notes = self.0?;
        let decided = decided()?;
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let given = std::mem::take(&mut notes.given);
        Recording { now_ms, given, decided }.encode(notes.max_bytes)
    }
}
