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
use crate::domain::subject_status::StatusRules;

/// The rows that remain to be written.
pub(crate) struct NumberedWriteSet<'a> {
    rows: Rows<'a>,
    now_ms: u64,
}

/// A subject whose row is locked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LockedSubject<'r> {
    /// Position in the table.
    pub(crate) pos: i64,
    pub(crate) status: &'r str,
}

/// The subjects whose status changes.
#[derive(Debug)]
pub(crate) struct StatusChanges<'r> {
    /// New status by position.
    pub(crate) changed: BTreeMap<i64, &'r str>,
    /// Subjects being cancelled (id → position): complete once no compensation is open.
    pub(crate) maybe_completed: BTreeMap<&'r str, i64>,
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
    pub(crate) fn subjects_to_lock(&self, rules: &StatusRules) -> Vec<&'a str> {
        let changing = self
            .rows
            .status_events
            .iter()
            .filter(|event| rules.transitions.contains_key(event.event_type))
            .map(|event| event.subject);
        changing.chain(self.rows.maybe_completed.iter().copied()).collect()
    }

    /// What changes, given the locked subjects by id. None on a conflict: a subject was cancelled
    /// meanwhile, or can no longer be.
    pub(crate) fn status_changes<'r>(
        &self,
        rules: &'r StatusRules,
        locked: &HashMap<&'r str, LockedSubject<'r>>,
    ) -> Option<StatusChanges<'r>>
    where
        'a: 'r,
    {
        let cancelled = |subject: &&str| {
            locked.get(*subject).is_some_and(|subject| rules.is_cancelled(subject.status))
        };
        if self.rows.not_cancelled.iter().any(&cancelled) {
            return None;
        }
        let mut changed: BTreeMap<i64, &'r str> = BTreeMap::new();
        for event in &self.rows.status_events {
            let Some(subject) = locked.get(event.subject) else { continue };
            let status = changed.get(&subject.pos).unwrap_or(&subject.status);
            match rules.next(status, event.event_type) {
                Some(next) => _ = changed.insert(subject.pos, next),
                None if event.effect == Effect::Required => return None,
                None => {}
            }
        }
        let being_cancelled = |id: &&'a str| {
            let subject = locked.get(*id)?;
            let status = changed.get(&subject.pos).unwrap_or(&subject.status);
            (Some(*status) == rules.cancelling()).then_some((*id, subject.pos))
        };
        let maybe_completed =
            self.rows.maybe_completed.iter().filter_map(being_cancelled).collect();
        Some(StatusChanges { changed, maybe_completed })
    }
}

impl<'r> StatusChanges<'r> {
    /// The new statuses by position; subjects with an `open` compensation stay as they are.
    pub(crate) fn complete(
        mut self,
        rules: &'r StatusRules,
        open: &[String],
    ) -> BTreeMap<i64, &'r str> {
        for subject in open {
            self.maybe_completed.remove(subject.as_str());
        }
        let completed = self.maybe_completed.into_values();
        self.changed.extend(completed.map(|pos| (pos, rules.cancel.done.as_str())));
        self.changed
    }
}
