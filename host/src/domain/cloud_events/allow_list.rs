//! What other programs may send, by type and source: one rule for HTTP and AMQP. Pure.
//!
//! A type that changes the status of a subject, or stock, belongs to the host and its stages. A pattern
//! with wildcards never allows one; it is allowed only where it is named in full. So a list that is
//! written before a new type exists does not open it.

use std::collections::BTreeSet;

use crate::domain::event::{PRODUCT_STOCKED, topic_matches};
use crate::domain::field_error::FieldError;
use crate::domain::subject_kind::SubjectKinds;

/// Types and sources that may come together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    /// Topic patterns of types.
    pub types: Vec<String>,
    /// Sources; `*` stands for any text.
    pub sources: Vec<String>,
}

impl AllowRule {
    /// Whether it allows this type, from some source.
    fn names(&self, event_type: &str, is_protected: bool) -> bool {
        self.types.iter().any(|pattern| {
            pattern == event_type || (!is_protected && topic_matches(pattern, event_type))
        })
    }
}

/// What other programs may send.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    rules: Vec<AllowRule>,
    /// Types that change a status or stock.
    protected: BTreeSet<String>,
    /// Topic patterns of further ones.
    protected_patterns: Vec<String>,
}

impl AllowList {
    /// A list with these rules, for these kinds of subjects; events of the types `stock` change stock.
    pub fn new(rules: Vec<AllowRule>, kinds: &SubjectKinds, stock: BTreeSet<String>) -> Self {
        let mut protected = stock;
        protected.insert(PRODUCT_STOCKED.to_owned());
        let mut protected_patterns = Vec::new();
        for kind in kinds.iter() {
            protected.extend(kind.status.transitions.keys().cloned());
            protected.extend([kind.first_event.clone(), kind.cancel_event.clone()]);
            protected_patterns.extend(kind.status.cancel.compensations.iter().cloned());
        }
        Self { rules, protected, protected_patterns }
    }

    /// Whether events of this type change the status of a subject, or stock.
    pub fn is_protected(&self, event_type: &str) -> bool {
        self.protected.contains(event_type)
            || self.protected_patterns.iter().any(|pattern| topic_matches(pattern, event_type))
    }

    /// Whether other programs may send events of this type, from some source.
    pub fn has_type(&self, event_type: &str) -> bool {
        let is_protected = self.is_protected(event_type);
        self.rules.iter().any(|rule| rule.names(event_type, is_protected))
    }

    /// Why other programs may not send such an event; none: they may.
    pub fn problem(&self, event_type: &str, source: &str) -> Option<FieldError> {
        let is_protected = self.is_protected(event_type);
        let mut rules =
            self.rules.iter().filter(|rule| rule.names(event_type, is_protected)).peekable();
        if rules.peek().is_none() {
            let why = if is_protected {
                format!(
                    "events of the type `{event_type}` change a status or stock: other programs may \
                     send them only if `ingress.allow` names the type in full"
                )
            } else {
                format!("`ingress.allow` has no pattern for events of the type `{event_type}`")
            };
            return Some(FieldError::at("/type", why));
        }
        let is_allowed =
            rules.any(|rule| rule.sources.iter().any(|pattern| source_matches(pattern, source)));
        (!is_allowed).then(|| {
            let why =
                format!("`ingress.allow` has no source for `{event_type}` that is `{source}`");
            FieldError::at("/source", why)
        })
    }
}

/// Whether a source is what the pattern says, in which `*` stands for any text. Takes linear time for
/// each star.
fn source_matches(pattern: &str, source: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = source.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn list(rules: &[(&[&str], &[&str])]) -> AllowList {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let rules = rules
            .iter()
            .map(|(types, sources)| AllowRule { types: texts(types), sources: texts(sources) });
        AllowList::new(rules.collect(), &Config::default().kinds().expect("valid"), BTreeSet::new())
    }

    fn refused(list: &AllowList, event_type: &str, source: &str) -> Option<String> {
        let problem = list.problem(event_type, source)?;
        Some(format!("{} {}", problem.pointer, problem.detail))
    }

    #[test]
    fn types_that_change_a_status_or_stock_are_named_in_full() {
        let all = list(&[(&["#"], &["*"])]);
        assert_eq!(refused(&all, "carrier.collected", "/carrier"), None);
        for protected in [
            "order.created",
            "order.cancelled",
            "payment.authorized",
            "payment.refunded",
            "inventory.reserved",
            "inventory.released",
            "shipping.ready",
            "shipping.dispatched",
            "product.stocked",
        ] {
            let why = refused(&all, protected, "/carrier");
            assert!(why.is_some_and(|why| why.contains("names the type in full")), "{protected}");
            let named = list(&[(&["#", protected], &["*"])]);
            assert_eq!(refused(&named, protected, "/carrier"), None, "{protected}");
            // A pattern that means only this type is not the type.
            let pattern = protected.replace('.', ".#.");
            assert!(refused(&list(&[(&[&pattern], &["*"])]), protected, "/x").is_some());
        }
    }

    #[test]
    fn a_rule_joins_types_and_sources() {
        let list = list(&[
            (&["desk.*"], &["/desk", "/desks/*"]),
            (&["carrier.#"], &["https://*.carrier.example/*/events"]),
        ]);
        for (event_type, source) in [
            ("desk.note", "/desk"),
            ("desk.note", "/desks/7"),
            ("carrier.collected", "https://eu.carrier.example/v1/events"),
        ] {
            assert_eq!(refused(&list, event_type, source), None, "{event_type} {source}");
        }
        for (event_type, source, at) in [
            ("desk.note.late", "/desk", "/type"),
            ("other", "/desk", "/type"),
            ("desk.note", "/desk/7", "/source"),
            ("desk.note", "/desks", "/source"),
            ("desk.note", "https://eu.carrier.example/v1/events", "/source"),
            ("carrier.collected", "https://carrier.example/v1/events", "/source"),
            ("carrier.collected", "https://eu.carrier.example/v1/event", "/source"),
        ] {
            let why = refused(&list, event_type, source);
            assert!(why.is_some_and(|why| why.starts_with(at)), "{event_type} {source}");
        }
        assert!(refused(&AllowList::default(), "desk.note", "/desk").is_some());
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, source, expected) in [
            ("*", "", true),
            ("*", "/a/b", true),
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(source_matches(pattern, source), expected, "{pattern} on {source}");
        }
    }
}
