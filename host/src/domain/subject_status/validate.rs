//! Validates the status rules at startup: reports all problems, each with its key.
//!
//! Pure. It rejects what can never happen (a status that no event leads to, a transition that no
//! subject can take) and what would break a guarantee (a way back from a cancelled subject, a status
//! that no event leaves and that is not terminal).

use std::collections::BTreeSet;

use super::{PRUNED, StatusRules};
use crate::domain::event::{ORDER_CANCELLED, ORDER_CREATED};
use crate::domain::name::is_name;

impl StatusRules {
    /// Adds all problems of the rules to `problems`; `key` is their key in the configuration.
    pub(crate) fn validate(&self, key: &str, problems: &mut Vec<String>) {
        self.check_transitions(key, problems);
        self.check_reach(key, problems);
        self.check_cancel(key, problems);
    }

    /// Statuses that an event, or a completed cancellation, leads to.
    fn known(&self) -> BTreeSet<&str> {
        let reached = self.transitions.values().map(|transition| transition.status.as_str());
        reached.chain(self.cancelling().map(|_| self.cancel.done.as_str())).collect()
    }

    fn check_transitions(&self, key: &str, problems: &mut Vec<String>) {
        let known = self.known();
        if !self.transitions.contains_key(ORDER_CREATED) {
            problems.push(format!(
                "{key}.transitions: `{ORDER_CREATED}` is missing: new subjects need a status"
            ));
        }
        for (event_type, transition) in &self.transitions {
            let place = format!("{key}.transitions.\"{event_type}\"");
            if !is_name(&transition.status) || transition.status == PRUNED {
                problems.push(format!(
                    "{place}.status: `{}` must match [a-z][a-z0-9-]{{0,39}} and not be `{PRUNED}`",
                    transition.status
                ));
            }
            let from = transition.from.iter().flatten();
            for status in from.clone().filter(|status| !known.contains(status.as_str())) {
                problems.push(format!("{place}.from: no event leads to `{status}`"));
            }
            for status in from.filter(|status| self.is_cancelled(status)) {
                problems.push(format!(
                    "{place}.from: no event may follow `{status}`, the subject is cancelled"
                ));
            }
            if event_type != ORDER_CREATED && transition.from.as_ref().is_some_and(Vec::is_empty) {
                problems.push(format!(
                    "{place}.from: is empty, but only `{ORDER_CREATED}` starts a subject"
                ));
            }
        }
        for status in self.terminal.iter().filter(|status| !known.contains(status.as_str())) {
            problems.push(format!("{key}.terminal: no event leads to `{status}`"));
        }
    }

    /// Follows the transitions from the initial status.
    fn check_reach(&self, key: &str, problems: &mut Vec<String>) {
        let Some(first) = self.initial(ORDER_CREATED) else { return };
        let (mut reached, mut waiting) = (BTreeSet::from([first]), vec![first]);
        while let Some(status) = waiting.pop() {
            let mut next: Vec<&str> = self
                .transitions
                .keys()
                .filter_map(|event_type| self.next(status, event_type))
                .collect();
            if Some(status) == self.cancelling() {
                next.push(&self.cancel.done);
            }
            if next.is_empty() && !self.terminal.contains(status) && !self.is_cancelled(status) {
                problems.push(format!(
                    "{key}.terminal: no event follows `{status}`, and it is not terminal"
                ));
            }
            waiting.extend(next.into_iter().filter(|status| reached.insert(status)));
        }
        for status in self.known().difference(&reached) {
            problems.push(format!("{key}.transitions: no subject can reach `{status}`"));
        }
    }

    fn check_cancel(&self, key: &str, problems: &mut Vec<String>) {
        let Some(cancelling) = self.cancelling() else { return };
        let done = self.cancel.done.as_str();
        if !is_name(done) || done == PRUNED || done == cancelling {
            let rule = format!(
                "must match [a-z][a-z0-9-]{{0,39}} and be neither `{PRUNED}` nor `{cancelling}`"
            );
            problems.push(format!("{key}.cancel.done: `{done}` {rule}"));
        }
        let others =
            self.transitions.iter().filter(|(event_type, _)| *event_type != ORDER_CANCELLED);
        for (event_type, transition) in
            others.filter(|(_, transition)| self.is_cancelled(&transition.status))
        {
            let status = &transition.status;
            problems.push(format!(
                "{key}.transitions.\"{event_type}\".status: `{status}` is reserved for \
                 cancellations"
            ));
        }
        if !self.compensates(ORDER_CANCELLED) {
            problems.push(format!(
                "{key}.cancel.compensations: must cover `{ORDER_CANCELLED}`, or no compensation \
                 runs"
            ));
        }
        if self.cancel.compensations.iter().any(String::is_empty) {
            problems.push(format!("{key}.cancel.compensations: a pattern is empty"));
        }
        for name in self.cancel.observers.iter().filter(|name| !is_name(name)) {
            problems.push(format!("{key}.cancel.observers: `{name}` is not a stage name"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(rules: &serde_json::Value) -> Vec<String> {
        let rules: StatusRules = serde_json::from_value(rules.clone()).expect("a table");
        let mut problems = Vec::new();
        rules.validate("orders.status", &mut problems);
        problems
    }

    #[test]
    fn the_default_rules_are_valid() {
        let mut problems = Vec::new();
        StatusRules::default().validate("orders.status", &mut problems);
        assert!(problems.is_empty(), "{problems:#?}");
    }

    #[test]
    fn all_problems_are_reported_with_their_keys() {
        let found = problems(&serde_json::json!({
            "transitions": {
                "order.created": {"status": "received", "from": []},
                "a": {"status": "Bad Name"},
                "b": {"status": "never", "from": ["nowhere"]},
                "c": {"status": "stuck", "from": ["received"]},
                "d": {"status": "begun", "from": []},
                "e": {"status": "back", "from": ["cancelling"]},
                "f": {"status": "cancelled", "from": ["received"]},
                "order.cancelled": {"status": "cancelling", "from": ["received"]},
            },
            "terminal": ["unknown", "Bad Name"],
            "cancel": {"compensations": ["payment.*", ""], "observers": ["Audit!"]},
        }));
        for expected in [
            "orders.status.transitions.\"a\".status: `Bad Name`",
            "orders.status.transitions.\"b\".from: no event leads to `nowhere`",
            "orders.status.transitions: no subject can reach `never`",
            "orders.status.terminal: no event leads to `unknown`",
            "orders.status.transitions.\"d\".from: is empty",
            "orders.status.transitions.\"e\".from: no event may follow `cancelling`",
            "orders.status.transitions: no subject can reach `back`",
            "orders.status.transitions.\"f\".status: `cancelled` is reserved for cancellations",
            "orders.status.cancel.compensations: must cover `order.cancelled`",
            "orders.status.cancel.compensations: a pattern is empty",
            "orders.status.cancel.observers: `Audit!`",
        ] {
            assert!(
                found.iter().any(|problem| problem.starts_with(expected)),
                "`{expected}` is missing from {found:#?}"
            );
        }
        let found = problems(&serde_json::json!({
            "transitions": {"order.created": {"status": "received", "from": []}, "c": {"status": "stuck", "from": ["received"]}},
        }));
        assert_eq!(
            found,
            ["orders.status.terminal: no event follows `stuck`, and it is not terminal"]
        );
        let found = problems(&serde_json::json!({
            "transitions": {
                "order.created": {"status": "received", "from": []},
                "order.cancelled": {"status": "cancelled", "from": ["received"]},
            },
        }));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(problems(&serde_json::json!({"transitions": {}}))[0].contains("order.created"));
    }
}
