//! A write set whose positions in the log are final: everything but the log itself remains to be
//! written.
//!
//! Guarantee carried here: a subject's status follows its events, and a batch that depends on an
//! subject not being cancelled fails when the subject was cancelled meanwhile. The database's module
//! locks the subjects, this module decides.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;

use super::rows::Effect;
use super::write_set::Rows;
use crate::domain::subject_kind::SubjectKinds;

/// The rows that remain to be written.
pub(crate) struct NumberedWriteSet<'a> {
    rows: Rows<'a>,
    now_ms: u64,
}

/// A subject as it is stored: its row is locked, or is verified when it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredSubject<'r> {
    /// Position in the table.
    pub(crate) pos: i64,
    pub(crate) status: &'r str,
}

/// The new status of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewStatus<'r> {
    /// Key of the subject.
    pub(crate) subject: &'r str,
    /// Position in the table.
    pub(crate) pos: i64,
    /// The status that it has in the store.
    pub(crate) stored: &'r str,
    pub(crate) status: &'r str,
    /// Whether nothing has to follow.
    pub(crate) finished: bool,
}

/// The subjects whose status changes.
#[derive(Debug)]
pub(crate) struct StatusChanges<'r> {
    /// By position.
    pub(crate) changed: BTreeMap<i64, NewStatus<'r>>,
    /// Subjects being cancelled, by key: complete once no compensation is open.
    pub(crate) maybe_completed: BTreeMap<&'r str, NewStatus<'r>>,
}

impl<'a> Deref for NumberedWriteSet<'a> {
    type Target = Rows<'a>;

    fn deref(&self) -> &Rows<'a> {
        &self.rows
    }
}

impl<'a> NumberedWriteSet<'a> {
    pub(super) fn new(rows: Rows<'a>, now_ms: u64) -> Self {
        Self { rows, now_ms }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Subjects whose row must be locked: those whose status an event may change, and those whose
    /// cancellation may be complete.
    pub(crate) fn subjects_to_lock(&self, kinds: &SubjectKinds) -> Vec<&'a str> {
        let changing = self
            .rows
            .status_events
            .iter()
            .filter(|event| kinds.may_change(event.subject, event.event_type))
            .map(|event| event.subject);
        changing.chain(self.rows.maybe_completed.iter().copied()).collect()
    }

    /// What changes, given the stored subjects by key. None on a conflict: a subject was cancelled
    /// meanwhile, or can no longer be.
    pub(crate) fn status_changes<'r>(
        &self,
        kinds: &'r SubjectKinds,
        stored: &HashMap<&'r str, StoredSubject<'r>>,
    ) -> Option<StatusChanges<'r>>
    where
        'a: 'r,
    {
        let cancelled = |key: &&str| {
            stored.get(*key).is_some_and(|subject| kinds.is_cancelled(key, subject.status))
        };
        if self.rows.not_cancelled.iter().any(&cancelled) {
            return None;
        }
        let mut changed: BTreeMap<i64, NewStatus<'r>> = BTreeMap::new();
        let new = |key: &'r str, subject: &StoredSubject<'r>, status| {
            let finished = kinds.is_finished(key, status);
            NewStatus { subject: key, pos: subject.pos, stored: subject.status, status, finished }
        };
        for event in &self.rows.status_events {
            let Some(subject) = stored.get(event.subject) else { continue };
            let status = changed.get(&subject.pos).map_or(subject.status, |new| new.status);
            match kinds.next(event.subject, status, event.event_type) {
                Some(next) => {
                    changed.insert(subject.pos, new(event.subject, subject, next));
                }
                None if event.effect == Effect::Required => return None,
                None => {}
            }
        }
        let being_cancelled = |key: &&'a str| {
            let subject = stored.get(*key)?;
            let status = changed.get(&subject.pos).map_or(subject.status, |new| new.status);
            let done = kinds.completed(key, status)?;
            Some((*key, new(key, subject, done)))
        };
        let maybe_completed =
            self.rows.maybe_completed.iter().filter_map(being_cancelled).collect();
        Some(StatusChanges { changed, maybe_completed })
    }
}

impl<'r> StatusChanges<'r> {
    /// The new statuses by position; subjects with an `open` compensation stay as they are.
    pub(crate) fn complete(mut self, open: &[String]) -> Vec<NewStatus<'r>> {
        for subject in open {
            self.maybe_completed.remove(subject.as_str());
        }
        let completed = self.maybe_completed.into_values();
        self.changed.extend(completed.map(|one| (one.pos, one)));
        self.changed.into_values().collect()
    }
}
