//! What makes kinds invalid together. Pure.

use super::{KINDS_MAX, SubjectKind};
use crate::domain::event::PRODUCT_STOCKED;

/// Every clash of the kinds, each with the key of the configuration that is at fault.
pub(super) fn find(kinds: &[SubjectKind]) -> Vec<String> {
    let mut problems = Vec::new();
    if kinds.len() > KINDS_MAX {
        problems.push(format!("subjects: {} kinds; the limit is {KINDS_MAX}", kinds.len()));
    }
    for (at, kind) in kinds.iter().enumerate() {
        own(kind, &mut problems);
        for before in &kinds[..at] {
            pair(before, kind, &mut problems);
        }
    }
    problems
}

/// The event types that belong to a kind alone, each with its key.
fn own_types(kind: &SubjectKind) -> [(&'static str, &str); 2] {
    [("first_event", &kind.first_event), ("cancel_event", &kind.cancel_event)]
}

fn own(kind: &SubjectKind, problems: &mut Vec<String>) {
    let name = &kind.name;
    if kind.first_event == kind.cancel_event {
        let event_type = &kind.first_event;
        problems.push(format!(
            "subjects.{name}.cancel_event: `{event_type}` is the first event of the kind, too"
        ));
    }
    for (key, event_type) in own_types(kind) {
        if event_type == PRODUCT_STOCKED {
            problems.push(format!(
                "subjects.{name}.{key}: `{event_type}` is an event of the host: use another type"
            ));
        }
    }
}

fn pair(one: &SubjectKind, other: &SubjectKind, problems: &mut Vec<String>) {
    let (name, before) = (&other.name, &one.name);
    for (key, text, taken) in
        [("path", &other.path, &one.path), ("plural", &other.plural, &one.plural)]
    {
        if text == taken {
            problems.push(format!(
                "subjects.{name}.{key}: `{text}` is the {key} of subjects.{before}, too: use another"
            ));
        }
    }
    for (key, event_type) in own_types(other) {
        for (taken_by, taken) in own_types(one) {
            if event_type == taken {
                problems.push(format!(
                    "subjects.{name}.{key}: `{event_type}` is subjects.{before}.{taken_by}, too: use \
                     another type"
                ));
            }
        }
    }
    // Events of one source must have different ids: `a` with id `b-1`, `a-b` with id `1`.
    let (short, long) = if before.len() < name.len() { (before, name) } else { (name, before) };
    if long.strip_prefix(short.as_str()).is_some_and(|rest| rest.starts_with('-')) {
        problems.push(format!(
            "subjects.{long}: the name begins with `{short}-`, and `{short}` is a kind, too: the ids \
             of their first events could be equal"
        ));
    }
}
