//! How an order's status follows from its events: a table from event type to status, with the statuses it may follow.
//!
//! Pure; the store applies it in the transaction that writes the event. Guarantee: a final status is left only by a transition that
//! names it, whatever the order in which late events arrive.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::{DEAD_LETTERED, ORDER_CREATED};

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
    pub finals: BTreeSet<String>,
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
            None => !self.finals.contains(present),
        };
        (allowed && transition.status != present).then_some(transition.status.as_str())
    }
}

impl Default for StatusRules {
    fn default() -> Self {
        let refundable = ["rejected", "cancelling", "cancelled"].map(String::from).to_vec();
        let rules: [(&str, &str, Option<Vec<String>>); 8] = [
            (ORDER_CREATED, "received", Some(Vec::new())),
            ("payment.authorized", "authorized", None),
            ("payment.declined", "declined", None),
            ("inventory.reserved", "reserved", None),
            // Not final: the refund follows.
            ("inventory.rejected", "rejected", None),
            ("payment.refunded", "refunded", Some(refundable)),
            ("shipping.ready", "ready", None),
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
            finals: ["declined", "refunded", "ready"].map(String::from).into(),
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
            ("authorized", "payment.refunded", None),
            ("authorized", "something.else", None),
        ] {
            assert_eq!(rules.next(present, event_type), expected, "{event_type} on {present}");
        }
    }

    #[test]
    fn a_transition_that_names_a_final_status_leaves_it() {
        let rules: StatusRules = serde_json::from_value(serde_json::json!({
            "transitions": {"shipping.recalled": {"status": "recalled", "from": ["ready"]}},
            "finals": ["ready"],
        }))
        .unwrap();
        assert_eq!(rules.next("ready", "shipping.recalled"), Some("recalled"));
        assert_eq!(rules.next("reserved", "shipping.recalled"), None);
    }
}
