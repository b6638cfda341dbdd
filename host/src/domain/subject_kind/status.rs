//! How the status of subjects follows from their events, whatever their kinds.
//!
//! A subject whose kind was removed from the configuration keeps its status: no event changes it, no
//! cancellation stops it, and it is never finished, so that nothing of it is lost until its kind is back.

use super::SubjectKinds;
use crate::domain::subject_status::StatusRules;

impl SubjectKinds {
    /// The status rules of a subject.
    fn rules(&self, key: &str) -> Option<&StatusRules> {
        self.of(key).map(|kind| &kind.status)
    }

    /// The status after an event of this type; none when it does not change.
    pub fn next(&self, key: &str, present: &str, event_type: &str) -> Option<&str> {
        self.rules(key)?.next(present, event_type)
    }

    /// Whether events of this type may change the status of a subject.
    pub fn may_change(&self, key: &str, event_type: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.transitions.contains_key(event_type))
    }

    /// Whether an event of this type cancels its subject.
    pub fn is_cancel_event(&self, key: &str, event_type: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.cancel_event == event_type)
    }

    /// Whether a subject of this status is cancelled, or being cancelled.
    pub fn is_cancelled(&self, key: &str, status: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.is_cancelled(status))
    }

    /// The status of a subject of this status once every compensation has completed; none: it is not
    /// being cancelled.
    pub fn completed(&self, key: &str, status: &str) -> Option<&str> {
        let rules = self.rules(key)?;
        (rules.cancelling() == Some(status)).then_some(rules.cancel.done.as_str())
    }

    /// Whether no event has to follow for a subject of this status.
    pub fn is_finished(&self, key: &str, status: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.is_finished(status))
    }

    /// Whether an event of this type moves its subject to a status in which nothing has to follow.
    pub fn finishes(&self, key: &str, event_type: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.finishes(event_type))
    }

    /// Whether a stage receives this event although its subject is cancelled.
    pub fn runs_when_cancelled(&self, key: &str, stage: &str, event_type: &str) -> bool {
        self.rules(key).is_none_or(|rules| rules.runs_when_cancelled(stage, event_type))
    }

    /// Whether events of this type are compensations of a subject.
    fn compensates(&self, key: &str, event_type: &str) -> bool {
        self.rules(key).is_some_and(|rules| rules.compensates(event_type))
    }

    /// The subjects among unfinished deliveries (subject, event type) that have an open compensation.
    pub(crate) fn compensating<'a, E>(
        &self,
        unfinished: impl Iterator<Item = Result<(String, &'a str), E>>,
    ) -> Result<Vec<String>, E> {
        let left = unfinished.filter(|row| match row {
            Ok((key, event_type)) => self.compensates(key, event_type),
            Err(_) => true,
        });
        left.map(|row| row.map(|(key, _)| key)).collect()
    }

    /// The finished statuses of one kind.
    pub fn finished_statuses_of(&self, kind: &str) -> Vec<&str> {
        self.named(kind).map_or_else(Vec::new, |kind| kind.status.finished_statuses())
    }

    /// The finished statuses of every kind, each as `<kind>/<status>`.
    pub fn finished_statuses(&self) -> Vec<String> {
        let of = |kind: &super::SubjectKind| -> Vec<String> {
            let statuses = kind.status.finished_statuses().into_iter();
            statuses.map(|status| format!("{}/{status}", kind.name)).collect()
        };
        self.iter().flat_map(|kind| of(kind)).collect()
    }
}
