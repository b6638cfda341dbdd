//! How a subject's status follows from its events: a table from event type to status, with the
//! statuses that it may follow. Each kind has its own.
//!
//! Pure; the store applies it in the transaction that writes the event. Guarantees: only a
//! transition that names a terminal status leaves it, in whatever order late events arrive; no event
//! changes the status of a cancelled subject.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::event::{HOST_EVENT_PREFIX, topic_matches};

mod validate;

/// The status of a subject whose content retention has deleted.
const PRUNED: &str = "pruned";

/// What one event type does to the status of its subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    /// The new status.
    pub status: String,
    /// Statuses that it may follow; none: any that is not terminal; empty: it only starts a subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
}

/// What still runs when a subject is cancelled. The transition of the kind's cancel event names the
/// statuses that allow it, and the status until every compensation has completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRules {
    /// Topic patterns of compensation events: they are processed although the subject is cancelled,
    /// and the subject is cancelled when all of them have completed. All its other events are skipped.
    pub compensations: Vec<String>,
    /// Stages that receive every event of a cancelled subject, because they only observe.
    pub observers: Vec<String>,
    /// The status when every compensation has completed.
    pub done: String,
}

/// The status rules of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRules {
    /// Type of the event that begins a subject.
    pub first_event: String,
    /// Type of the event that cancels a subject.
    pub cancel_event: String,
    /// Transitions by event type.
    pub transitions: BTreeMap<String, Transition>,
    /// Statuses that only a transition naming them can leave.
    pub terminal: BTreeSet<String>,
    /// What still runs when a subject is cancelled.
    pub cancel: CancelRules,
}

impl StatusRules {
    /// The status of a new subject.
    pub fn initial(&self) -> Option<&str> {
        self.entered_by(&self.first_event)
    }

    /// The status that an event of this type leads to.
    fn entered_by(&self, event_type: &str) -> Option<&str> {
        self.transitions.get(event_type).map(|transition| transition.status.as_str())
    }

    /// The status after an event of this type; none when it does not change.
    pub fn next(&self, present: &str, event_type: &str) -> Option<&str> {
        let transition = self.transitions.get(event_type)?;
        let allowed = match &transition.from {
            Some(from) => from.iter().any(|status| status == present),
            None => !self.terminal.contains(present) && present != PRUNED,
        };
        (allowed && transition.status != present && !self.is_cancelled(present))
            .then_some(transition.status.as_str())
    }

    /// The status of a subject that is being cancelled; none: subjects cannot be cancelled.
    pub fn cancelling(&self) -> Option<&str> {
        self.entered_by(&self.cancel_event)
    }

    /// Whether a subject of this status is cancelled, or being cancelled.
    pub fn is_cancelled(&self, status: &str) -> bool {
        self.cancelling()
            .is_some_and(|cancelling| status == cancelling || status == self.cancel.done)
    }

    /// Whether a subject of this status is cancelled, and every compensation has completed.
    pub fn is_fully_cancelled(&self, status: &str) -> bool {
        self.is_cancelled(status) && status == self.cancel.done
    }

    /// The statuses of subjects that wait for nothing: no event has to follow.
    pub fn finished_statuses(&self) -> Vec<&str> {
        let terminal = self.terminal.iter().map(String::as_str);
        terminal.chain([self.cancel.done.as_str(), PRUNED]).collect()
    }

    /// Whether no event has to follow for a subject of this status.
    pub fn is_finished(&self, status: &str) -> bool {
        self.terminal.contains(status) || status == self.cancel.done || status == PRUNED
    }

    /// Whether an event of this type moves its subject to a status in which nothing has to follow.
    pub fn finishes(&self, event_type: &str) -> bool {
        self.entered_by(event_type).is_some_and(|status| self.terminal.contains(status))
    }

    /// Whether events of this type are compensations.
    pub fn compensates(&self, event_type: &str) -> bool {
        self.cancel.compensations.iter().any(|pattern| topic_matches(pattern, event_type))
    }

    /// Whether a stage receives this event although its subject is cancelled.
    pub fn runs_when_cancelled(&self, stage: &str, event_type: &str) -> bool {
        self.compensates(event_type)
            || event_type.starts_with(HOST_EVENT_PREFIX)
            || self.cancel.observers.iter().any(|name| name == stage)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Rules with these transitions, for subjects that `doc.created` begins.
    pub(crate) fn rules(transitions: serde_json::Value, terminal: &[&str]) -> StatusRules {
        StatusRules {
            first_event: "doc.created".to_owned(),
            cancel_event: "doc.cancelled".to_owned(),
            transitions: serde_json::from_value(transitions).expect("transitions"),
            terminal: terminal.iter().map(ToString::to_string).collect(),
            cancel: CancelRules {
                compensations: vec!["doc.cancelled".to_owned(), "*.undone".to_owned()],
                observers: Vec::new(),
                done: "cancelled".to_owned(),
            },
        }
    }

    fn documents() -> StatusRules {
        let transitions = json!({
            "doc.created": { "status": "received", "from": [] },
            "scan.done": { "status": "scanned" },
            "scan.refused": { "status": "refused" },
            "scan.undone": { "status": "unscanned", "from": ["scanned", "failed"] },
            "post.sent": { "status": "sent", "from": ["scanned"] },
            "doc.cancelled": { "status": "cancelling", "from": ["received", "scanned", "failed"] },
            "postrider.dead-lettered": { "status": "failed" },
        });
        rules(transitions, &["refused", "sent", "unscanned"])
    }

    #[test]
    fn the_status_follows_the_events() {
        let rules = documents();
        assert_eq!(rules.initial(), Some("received"));
        for (present, event_type, expected) in [
            ("received", "scan.done", Some("scanned")),
            ("scanned", "scan.done", None),
            ("scanned", "doc.created", None),
            ("refused", "scan.done", None),
            ("scanned", "postrider.dead-lettered", Some("failed")),
            ("failed", "scan.done", Some("scanned")),
            ("received", "scan.undone", None),
            ("received", "something.else", None),
            ("scanned", "post.sent", Some("sent")),
            ("received", "post.sent", None),
            ("scanned", "doc.cancelled", Some("cancelling")),
            ("sent", "doc.cancelled", None),
            // No event changes a cancelled subject.
            ("cancelling", "scan.done", None),
            ("cancelling", "postrider.dead-lettered", None),
            ("cancelled", "scan.done", None),
            ("pruned", "scan.done", None),
        ] {
            assert_eq!(rules.next(present, event_type), expected, "{event_type} on {present}");
        }
    }

    #[test]
    fn compensations_and_observers_run_on_cancelled_subjects() {
        let mut rules = documents();
        rules.cancel.observers.push("audit".to_owned());
        for (stage, event_type, expected) in [
            ("post", "scan.done", false),
            ("audit", "scan.done", true),
            ("scan", "doc.cancelled", true),
            ("post", "scan.undone", true),
            ("alerts", "postrider.dead-lettered", true),
        ] {
            let runs = rules.runs_when_cancelled(stage, event_type);
            assert_eq!(runs, expected, "{event_type} at {stage}");
        }
        assert!(rules.is_cancelled("cancelling") && rules.is_cancelled("cancelled"));
        assert!(rules.is_fully_cancelled("cancelled") && !rules.is_fully_cancelled("cancelling"));
        rules.transitions.remove("doc.cancelled");
        assert!(!rules.is_cancelled("cancelled") && !rules.is_cancelled("cancelling"));
    }

    #[test]
    fn a_transition_can_leave_a_terminal_status_that_it_names() {
        let transitions = json!({ "post.recalled": { "status": "recalled", "from": ["sent"] } });
        let rules = rules(transitions, &["sent"]);
        assert_eq!(rules.next("sent", "post.recalled"), Some("recalled"));
        assert_eq!(rules.next("scanned", "post.recalled"), None);
    }

    #[test]
    fn finished_statuses_agree_with_the_check() {
        let rules = documents();
        let finished = rules.finished_statuses();
        for status in ["received", "scanned", "sent", "cancelling", "cancelled", "pruned", "failed"]
        {
            assert_eq!(rules.is_finished(status), finished.contains(&status), "{status}");
        }
    }
}
