//! Validates the status rules at startup: reports all problems, each with its key.
//!
//! Pure. It rejects what can never happen (a status that no event leads to, a transition that no
//! subject can take) and what would break a guarantee (a way back from a cancelled subject, a status
//! that no event leaves and that is not terminal).

use std::collections::BTreeSet;

use super::{PRUNED, StatusRules};
use crate::domain::event::topic_problem;
use crate::domain::name::is_name;

impl StatusRules {
    /// Adds all problems of the rules to `problems`; `key` is their key in the configuration.
    pub(crate) fn validate(&self, key: &str, problems: &mut Vec<String>) {
        self.check_transitions(key, problems);
        self.check_reach(key, problems);
        self.check_cancel(key, problems);
        for pattern in &self.cancel.compensations {
            if let Some(why) = topic_problem(pattern) {
                problems.push(format!("{key}.cancel.compensations: the pattern `{pattern}` {why}"));
            }
        }
    }

    /// Statuses that an event, or a completed cancellation, leads to.
    fn known(&self) -> BTreeSet<&str> {
        let reached = self.transitions.values().map(|transition| transition.status.as_str());
        reached.chain(self.cancelling().map(|_| self.cancel.done.as_str())).collect()
    }

    fn check_transitions(&self, key: &str, problems: &mut Vec<String>) {
        let known = self.known();
        if !self.transitions.contains_key(&self.first_event) {
            problems.push(format!(
                "{key}.transitions: `{}` is missing: new subjects need a status",
                self.first_event
            ));
        }
        for (event_type, transition) in &self.transitions {
            if let Some(why) = topic_problem(event_type) {
                problems.push(format!("{key}.transitions: the event type `{event_type}` {why}"));
            }
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
            if *event_type != self.first_event
                && transition.from.as_ref().is_some_and(Vec::is_empty)
            {
                problems.push(format!(
                    "{place}.from: is empty, but only `{}` starts a subject",
                    self.first_event
                ));
            }
        }
        for status in self.terminal.iter().filter(|status| !known.contains(status.as_str())) {
            problems.push(format!("{key}.terminal: no event leads to `{status}`"));
        }
    }

    /// Follows the transitions from the initial status.
    fn check_reach(&self, key: &str, problems: &mut Vec<String>) {
        let Some(first) = self.initial() else { return };
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
            self.transitions.iter().filter(|(event_type, _)| **event_type != self.cancel_event);
        for (event_type, transition) in
            others.filter(|(_, transition)| self.is_cancelled(&transition.status))
        {
            let status = &transition.status;
            problems.push(format!(
                "{key}.transitions.\"{event_type}\".status: `{status}` is reserved for \
                 cancellations"
            ));
        }
        if !self.compensates(&self.cancel_event) {
            problems.push(format!(
                "{key}.cancel.compensations: must cover `{}`, or no compensation runs",
                self.cancel_event
            ));
        }
        for name in self.cancel.observers.iter().filter(|name| !is_name(name)) {
            problems.push(format!("{key}.cancel.observers: `{name}` is not a stage name"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::subject_status::tests::rules;

    const KEY: &str = "subjects.doc.status";

    fn problems(rules: &StatusRules) -> Vec<String> {
        let mut problems = Vec::new();
        rules.validate(KEY, &mut problems);
        problems
    }

    #[test]
    fn all_problems_are_reported_with_their_keys() {
        let transitions = json!({
            "doc.created": {"status": "received", "from": []},
            "a": {"status": "Bad Name"},
            "b": {"status": "never", "from": ["nowhere"]},
            "c": {"status": "stuck", "from": ["received"]},
            "d": {"status": "begun", "from": []},
            "e": {"status": "back", "from": ["cancelling"]},
            "f": {"status": "cancelled", "from": ["received"]},
            "g..h": {"status": "odd", "from": ["received"]},
            "doc.cancelled": {"status": "cancelling", "from": ["received"]},
        });
        let mut rules = rules(transitions, &["unknown", "Bad Name", "odd"]);
        rules.cancel.compensations = vec!["scan.*".to_owned(), String::new()];
        rules.cancel.observers = vec!["Audit!".to_owned()];
        let found = problems(&rules);
        for expected in [
            ".transitions.\"a\".status: `Bad Name`",
            ".transitions.\"b\".from: no event leads to `nowhere`",
            ".transitions: no subject can reach `never`",
            ".terminal: no event leads to `unknown`",
            ".transitions.\"d\".from: is empty, but only `doc.created`",
            ".transitions.\"e\".from: no event may follow `cancelling`",
            ".transitions: no subject can reach `back`",
            ".transitions.\"f\".status: `cancelled` is reserved for cancellations",
            ".transitions: the event type `g..h` has an empty word",
            ".cancel.compensations: must cover `doc.cancelled`",
            ".cancel.compensations: the pattern `` is empty",
            ".cancel.observers: `Audit!`",
        ] {
            assert!(
                found.iter().any(|problem| problem.starts_with(&format!("{KEY}{expected}"))),
                "`{expected}` is missing from {found:#?}"
            );
        }
    }

    #[test]
    fn subjects_must_begin_and_end() {
        let of = |transitions: Value| problems(&rules(transitions, &[]));
        let stuck = json!({
            "doc.created": {"status": "received", "from": []},
            "c": {"status": "stuck", "from": ["received"]},
        });
        let expected = format!("{KEY}.terminal: no event follows `stuck`, and it is not terminal");
        assert_eq!(of(stuck), [expected]);
        let same = json!({
            "doc.created": {"status": "received", "from": []},
            "doc.cancelled": {"status": "cancelled", "from": ["received"]},
        });
        assert_eq!(of(same).len(), 1, "the status during and after a cancellation is the same");
        assert!(of(json!({}))[0].contains("doc.created"));
    }
}
