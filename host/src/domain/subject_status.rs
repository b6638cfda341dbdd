//! How a subject's status follows from its events: a table from event type to status, with the
//! statuses that it may follow.
//!
//! Pure; the store applies it in the transaction that writes the event. Guarantees: only a
//! transition that names a terminal status leaves it, in whatever order late events arrive; no event
//! changes the status of a cancelled subject.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::event::{
    DEAD_LETTERED, HOST_EVENT_PREFIX, ORDER_CANCELLED, ORDER_CREATED, topic_matches,
};

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

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusRules {
    /// Transitions by event type.
    pub transitions: BTreeMap<String, Transition>,
    /// Statuses that only a transition naming them can leave.
    #[serde(default)]
    pub terminal: BTreeSet<String>,
    /// What still runs when a subject is cancelled.
    #[serde(default)]
    pub cancel: CancelRules,
}

/// What still runs when a subject is cancelled. The transition of `order.cancelled` names the statuses
/// that allow it, and the status until every compensation has completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CancelRules {
    /// Topic patterns of compensation events: they are processed although the subject is cancelled, and
    /// the subject is cancelled when all of them have completed. All its other events are skipped.
    pub compensations: Vec<String>,
    /// Stages that receive every event of a cancelled subject, because they only observe.
    pub observers: Vec<String>,
    /// The status when every compensation has completed.
    pub done: String,
}

impl Default for CancelRules {
    fn default() -> Self {
        let compensations = [
            ORDER_CANCELLED,
            "payment.refunded",
            "inventory.released",
            "shipping.recalled",
            "notification.sent",
        ];
        Self {
            compensations: compensations.map(String::from).to_vec(),
            observers: Vec::new(),
            done: "cancelled".to_owned(),
        }
    }
}

impl StatusRules {
    /// The status of a subject that starts with an event of this type.
    pub fn initial(&self, event_type: &str) -> Option<&str> {
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
        self.initial(ORDER_CANCELLED)
    }

    /// The statuses of a cancelled subject: during its compensations, and after them. Empty where subjects
    /// cannot be cancelled.
    pub fn cancelled_statuses(&self) -> [&str; 2] {
        self.cancelling().map_or([""; 2], |cancelling| [cancelling, &self.cancel.done])
    }

    /// Whether a subject of this status is cancelled, or being cancelled.
    pub fn is_cancelled(&self, status: &str) -> bool {
        self.cancelled_statuses().contains(&status)
    }

    /// The statuses of subjects that wait for nothing: no event has to follow.
    pub fn finished_statuses(&self) -> Vec<&str> {
        let terminal = self.terminal.iter().map(String::as_str);
        terminal.chain([self.cancel.done.as_str(), PRUNED]).collect()
    }

    /// Whether an event of this type moves its subject to a status in which nothing has to follow.
    pub fn finishes(&self, event_type: &str) -> bool {
        self.initial(event_type).is_some_and(|status| self.terminal.contains(status))
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

    /// The subjects among unfinished deliveries (subject, event type) that have an open compensation.
    pub(crate) fn compensating<'a, E>(
        &self,
        unfinished: impl Iterator<Item = Result<(String, &'a str), E>>,
    ) -> Result<Vec<String>, E> {
        let left = unfinished.filter(|row| {
            row.as_ref().map_or(true, |(_, event_type)| self.compensates(event_type))
        });
        left.map(|row| row.map(|(subject, _)| subject)).collect()
    }
}

impl Default for StatusRules {
    fn default() -> Self {
        let named = |statuses: &[&str]| Some(statuses.iter().map(ToString::to_string).collect());
        let rules: [(&str, &str, Option<Vec<String>>); 10] = [
            (ORDER_CREATED, "received", Some(Vec::new())),
            ("payment.authorized", "authorized", None),
            ("payment.declined", "declined", None),
            ("inventory.reserved", "reserved", None),
            // Not terminal: the refund follows.
            ("inventory.rejected", "rejected", None),
            // A replayed refund follows `failed`.
            ("payment.refunded", "refunded", named(&["rejected", "failed"])),
            ("shipping.ready", "ready", None),
            // The point of no return.
            ("shipping.dispatched", "dispatched", named(&["ready"])),
            (
                ORDER_CANCELLED,
                "cancelling",
                named(&["received", "authorized", "reserved", "ready", "failed"]),
            ),
            // Not terminal: a replay continues from here.
            (DEAD_LETTERED, "failed", None),
        ];
        Self {
            transitions: rules
                .into_iter()
                .map(|(event_type, status, from)| {
                    let status = status.to_owned();
                    (event_type.to_owned(), Transition { status, from })
                })
                .collect(),
            terminal: ["declined", "refunded", "ready", "dispatched"].map(String::from).into(),
            cancel: CancelRules::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_rules_follow_the_pipeline() {
        let rules = StatusRules::default();
        assert_eq!(rules.initial(ORDER_CREATED), Some("received"));
        for (present, event_type, expected) in [
            ("received", "payment.authorized", Some("authorized")),
            ("authorized", "payment.authorized", None),
            ("authorized", ORDER_CREATED, None),
            ("authorized", "inventory.reserved", Some("reserved")),
            ("reserved", "shipping.ready", Some("ready")),
            ("ready", DEAD_LETTERED, None),
            ("declined", "payment.authorized", None),
            ("reserved", DEAD_LETTERED, Some("failed")),
            ("failed", "shipping.ready", Some("ready")),
            ("rejected", "payment.refunded", Some("refunded")),
            ("failed", "payment.refunded", Some("refunded")),
            ("authorized", "payment.refunded", None),
            ("authorized", "something.else", None),
            ("ready", "shipping.dispatched", Some("dispatched")),
            ("reserved", "shipping.dispatched", None),
            ("ready", ORDER_CANCELLED, Some("cancelling")),
            ("failed", ORDER_CANCELLED, Some("cancelling")),
            ("dispatched", ORDER_CANCELLED, None),
            ("declined", ORDER_CANCELLED, None),
            ("rejected", ORDER_CANCELLED, None),
            // No event changes a cancelled subject.
            ("cancelling", "shipping.ready", None),
            ("cancelling", DEAD_LETTERED, None),
            ("cancelling", "payment.refunded", None),
            ("cancelled", "payment.authorized", None),
            ("pruned", "payment.authorized", None),
        ] {
            assert_eq!(rules.next(present, event_type), expected, "{event_type} on {present}");
        }
    }

    #[test]
    fn compensations_and_observers_run_on_cancelled_subjects() {
        let mut rules = StatusRules::default();
        rules.cancel.observers.push("audit".to_owned());
        for (stage, event_type, expected) in [
            ("inventory", "payment.authorized", false),
            ("audit", "payment.authorized", true),
            ("inventory", ORDER_CANCELLED, true),
            ("notification", "payment.refunded", true),
            ("alerts", DEAD_LETTERED, true),
        ] {
            assert_eq!(
                rules.runs_when_cancelled(stage, event_type),
                expected,
                "{event_type} at {stage}"
            );
        }
        assert_eq!(rules.cancelled_statuses(), ["cancelling", "cancelled"]);
        rules.transitions.remove(ORDER_CANCELLED);
        assert!(!rules.is_cancelled("cancelled") && !rules.is_cancelled("cancelling"));
    }

    #[test]
    fn a_transition_can_leave_a_terminal_status_that_it_names() {
        let rules: StatusRules = serde_json::from_value(serde_json::json!({
            "transitions": {"shipping.recalled": {"status": "recalled", "from": ["ready"]}},
            "terminal": ["ready"],
        }))
        .unwrap();
        assert_eq!(rules.next("ready", "shipping.recalled"), Some("recalled"));
        assert_eq!(rules.next("reserved", "shipping.recalled"), None);
    }
}
