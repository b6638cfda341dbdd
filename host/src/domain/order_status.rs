//! How an order's status follows from its events: a table from event type to status, with the
//! statuses it may follow.
//!
//! Pure; the store applies it in the transaction that writes the event. Guarantees: a final status
//! is left only by a transition that names it, whatever the order in which late events arrive; a
//! cancelled order leaves its two statuses by no event at all.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::event::{
    DEAD_LETTERED, HOST_EVENT_PREFIX, ORDER_CANCELLED, ORDER_CREATED, topic_matches,
};

mod validate;

/// The status of an order whose content retention has removed.
const PRUNED: &str = "pruned";

/// What one event type does to the status of its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    /// The new status.
    pub status: String,
    /// Statuses that it may follow; none: any that is not final; empty: it only begins an order.
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
    /// What goes on when an order is cancelled.
    #[serde(default)]
    pub cancel: CancelRules,
}

/// What goes on when an order is cancelled. The transition of `order.cancelled` says from which
/// statuses, and what the status is until everything is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CancelRules {
    /// Topic patterns of the events by which stages undo: they are carried out in spite of the
    /// cancel, and when all of them were, the order is cancelled. Every other event of the order is
    /// skipped.
    pub compensations: Vec<String>,
    /// Stages that are given every event of a cancelled order, because they only watch.
    pub observers: Vec<String>,
    /// The status when everything is undone.
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
    /// The status of an order that begins with an event of this type.
    pub fn initial(&self, event_type: &str) -> Option<&str> {
        self.transitions.get(event_type).map(|transition| transition.status.as_str())
    }

    /// The status after an event of this type; none when it stays as it is.
    pub fn next(&self, present: &str, event_type: &str) -> Option<&str> {
        let transition = self.transitions.get(event_type)?;
        let allowed = match &transition.from {
            Some(from) => from.iter().any(|status| status == present),
            None => !self.terminal.contains(present) && present != PRUNED,
        };
        (allowed && transition.status != present && !self.is_cancelled(present))
            .then_some(transition.status.as_str())
    }

    /// The status of an order whose cancel is under way; none: orders cannot be cancelled.
    pub fn cancelling(&self) -> Option<&str> {
        self.initial(ORDER_CANCELLED)
    }

    /// The statuses of a cancelled order: while it is undone, and then. Empty where orders cannot
    /// be cancelled.
    pub fn cancelled_statuses(&self) -> [&str; 2] {
        self.cancelling().map_or([""; 2], |cancelling| [cancelling, &self.cancel.done])
    }

    /// Whether an order of this status is cancelled, or being cancelled: nothing goes forward with
    /// it.
    pub fn is_cancelled(&self, status: &str) -> bool {
        self.cancelled_statuses().contains(&status)
    }

    /// Whether events of this type undo.
    pub fn compensates(&self, event_type: &str) -> bool {
        self.cancel.compensations.iter().any(|pattern| topic_matches(pattern, event_type))
    }

    /// Whether a stage is given this event although its order is cancelled.
    pub fn runs_when_cancelled(&self, stage: &str, event_type: &str) -> bool {
        self.compensates(event_type)
            || event_type.starts_with(HOST_EVENT_PREFIX)
            || self.cancel.observers.iter().any(|name| name == stage)
    }

    /// The orders among unfinished deliveries (order, event type) that have a compensation left.
    pub(crate) fn compensating<'a, E>(
        &self,
        unfinished: impl Iterator<Item = Result<(String, &'a str), E>>,
    ) -> Result<Vec<String>, E> {
        let left = unfinished.filter(|row| {
            row.as_ref().map_or(true, |(_, event_type)| self.compensates(event_type))
        });
        left.map(|row| row.map(|(order, _)| order)).collect()
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
            // Not final: the refund follows.
            ("inventory.rejected", "rejected", None),
            // A refund that died and was replayed comes from `failed`.
            ("payment.refunded", "refunded", named(&["rejected", "failed"])),
            ("shipping.ready", "ready", None),
            // The point of no return.
            ("shipping.dispatched", "dispatched", named(&["ready"])),
            (
                ORDER_CANCELLED,
                "cancelling",
                named(&["received", "authorized", "reserved", "ready", "failed"]),
            ),
            // Not final: a replay goes on from here.
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
    fn the_default_table_follows_the_pipeline() {
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
            // Nothing moves a cancelled order.
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
    fn what_a_cancel_stops_is_configured() {
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
    fn a_transition_that_names_a_final_status_leaves_it() {
        let rules: StatusRules = serde_json::from_value(serde_json::json!({
            "transitions": {"shipping.recalled": {"status": "recalled", "from": ["ready"]}},
            "terminal": ["ready"],
        }))
        .unwrap();
        assert_eq!(rules.next("ready", "shipping.recalled"), Some("recalled"));
        assert_eq!(rules.next("reserved", "shipping.recalled"), None);
    }
}
