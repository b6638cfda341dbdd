//! Compares two decisions. Pure.
//!
//! Reports at most [`CHANGES_MAX`] changes per event, each side with at most [`TEXT_MAX`] characters.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::domain::{field_error, trace_context};
use crate::stage::recording::{Decided, JsonBytes, RecordedEmit, Writes};
use crate::store::Verdict;

/// Maximum number of changes reported per event.
const CHANGES_MAX: usize = 32;
/// Maximum number of characters of one side of a change.
const TEXT_MAX: usize = 200;

/// A stage's decision about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The stage succeeded.
    Done {
        /// Emitted events, in order.
        events: Vec<RecordedEmit>,
        /// State writes.
        writes: Writes,
    },
    /// The stage failed.
    Fails {
        /// Error code, as in a dead letter.
        code: String,
        /// Whether a retry may succeed.
        retryable: bool,
    },
    /// The version does not consume the event's type.
    Skipped,
}

/// A difference between two decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What differs: `outcome`, `event 1 /amount`, `state order/7/payment`.
    pub what: String,
    /// The recorded value.
    pub from: String,
    /// The value in the replay.
    pub to: String,
}

impl Decision {
    /// From a verdict of the pipeline; `None` if the verdict leaves the delivery open.
    pub(super) fn of_verdict(decided: Decided, verdict: Verdict) -> Option<Self> {
        match (decided, verdict) {
            (Decided::Done { writes, delays_ms }, Verdict::Done(events)) => {
                let delays = delays_ms.into_iter().chain(std::iter::repeat(0));
                let events = events.into_iter().zip(delays).map(|(event, delay_ms)| {
                    RecordedEmit::of(event.envelope.event.clone(), delay_ms)
                });
                Some(Self::Done { events: events.collect(), writes })
            }
            (Decided::Dead { code, retryable }, _) => Some(Self::Fails { code, retryable }),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Done { events, .. } if events.is_empty() => "done, no events".to_owned(),
            Self::Done { events, .. } => {
                let types: Vec<&str> =
                    events.iter().map(|event| event.event_type.as_str()).collect();
                format!("done: {}", types.join(", "))
            }
            Self::Fails { code, retryable: true } => format!("failed, retryable: {code}"),
            Self::Fails { code, retryable: false } => format!("failed permanently: {code}"),
            Self::Skipped => "skipped: the type is not consumed".to_owned(),
        }
    }
}

/// Lists the differences between two decisions.
pub(super) fn changes(before: &Decision, after: &Decision) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    match (before, after) {
        (Decision::Done { events: was, writes: wrote }, Decision::Done { events: is, writes }) => {
            changes.events(was, is);
            changes.writes(wrote, writes);
        }
        (before, after) if before == after => {}
        (before, after) => changes.note("outcome", before.text(), after.text()),
    }
    changes.0
}

struct Changes(Vec<Change>);

impl Changes {
    fn note(&mut self, what: impl Into<String>, from: impl Into<String>, to: impl Into<String>) {
        if self.0.len() < CHANGES_MAX {
            self.0.push(Change {
                what: shortened(what.into()),
                from: shortened(from.into()),
                to: shortened(to.into()),
            });
        }
    }

    fn events(&mut self, was: &[RecordedEmit], is: &[RecordedEmit]) {
        for at in 0..was.len().max(is.len()) {
            let name = format!("event {}", at + 1);
            match (was.get(at), is.get(at)) {
                (Some(was), Some(is)) if was.event_type == is.event_type => {
                    self.event(&name, was, is);
                }
                (was, is) => self.note(name, whole(was), whole(is)),
            }
        }
    }

    fn event(&mut self, name: &str, was: &RecordedEmit, is: &RecordedEmit) {
        for (part, was, is) in [
            ("subject", &was.subject, &is.subject),
            ("content type", &was.content_type, &is.content_type),
        ] {
            if was != is {
                self.note(format!("{name} {part}"), was, is);
            }
        }
        if was.delay_ms != is.delay_ms {
            self.note(
                format!("{name} delay"),
                format!("{} ms", was.delay_ms),
                format!("{} ms", is.delay_ms),
            );
        }
        let (had, has) = (attributes(was), attributes(is));
        for key in had.keys().chain(has.keys()).collect::<BTreeSet<_>>() {
            if had.get(*key) != has.get(*key) {
                let text = |value: Option<&&str>| value.map_or("none", |value| *value).to_owned();
                self.note(
                    format!("{name} attribute {key}"),
                    text(had.get(*key)),
                    text(has.get(*key)),
                );
            }
        }
        self.data(name, &was.data, &is.data);
    }

    /// Compares as JSON if both sides are JSON, otherwise byte by byte.
    fn data(&mut self, name: &str, was: &JsonBytes, is: &JsonBytes) {
        if was == is {
            return;
        }
        match (serde_json::from_slice(&was.0), serde_json::from_slice(&is.0)) {
            (Ok(was), Ok(is)) => self.json(name, "", Some(&was), Some(&is)),
            _ => self.note(name, text(was), text(is)),
        }
    }

    /// Reports every value that differs, with its JSON pointer.
    fn json(&mut self, name: &str, pointer: &str, was: Option<&Value>, is: Option<&Value>) {
        match (was, is) {
            (was, is) if was == is => {}
            (Some(Value::Object(was)), Some(Value::Object(is))) => {
                for key in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                    let below = format!("{pointer}{}", field_error::pointer(key));
                    self.json(name, &below, was.get(key), is.get(key));
                }
            }
            (Some(Value::Array(was)), Some(Value::Array(is))) => {
                for at in 0..was.len().max(is.len()) {
                    self.json(name, &format!("{pointer}/{at}"), was.get(at), is.get(at));
                }
            }
            (was, is) => {
                let text = |value: Option<&Value>| {
                    value.map_or_else(|| "none".to_owned(), Value::to_string)
                };
                let what =
                    if pointer.is_empty() { name.to_owned() } else { format!("{name} {pointer}") };
                self.note(what, text(was), text(is));
            }
        }
    }

    fn writes(&mut self, was: &Writes, is: &Writes) {
        let (Writes::All(all_was), Writes::All(all_is)) = (was, is) else {
            if was.digest() != is.digest() {
                self.note("state", summary(was), summary(is));
            }
            return;
        };
        for key in all_was.keys().chain(all_is.keys()).collect::<BTreeSet<_>>() {
            let name = format!("state {key}");
            match (all_was.get(key), all_is.get(key)) {
                (was, is) if was == is => {}
                (Some(Some(was)), Some(Some(is))) => self.data(&name, was, is),
                (was, is) => self.note(name, written(was), written(is)),
            }
        }
    }
}

/// Attributes set by the stage; the host sets the trace attributes.
fn attributes(event: &RecordedEmit) -> BTreeMap<&str, &str> {
    let own =
        event.attributes.iter().filter(|(name, _)| !trace_context::NAMES.contains(&name.as_str()));
    own.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn whole(event: Option<&RecordedEmit>) -> String {
    event.map_or_else(
        || "none".to_owned(),
        |event| format!("{} {}", event.event_type, text(&event.data)),
    )
}

fn written(value: Option<&Option<JsonBytes>>) -> String {
    match value {
        None => "not written".to_owned(),
        Some(None) => "removed".to_owned(),
        Some(Some(value)) => text(value),
    }
}

fn summary(writes: &Writes) -> String {
    match writes {
        Writes::All(all) => format!("{} keys with the digest {}", all.len(), writes.digest()),
        Writes::Digest(digest) => format!("keys with the digest {digest}"),
    }
}

fn text(value: &JsonBytes) -> String {
    std::str::from_utf8(&value.0)
        .map_or_else(|_| format!("{} bytes of binary data", value.0.len()), str::to_owned)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn event(event_type: &str, data: &str) -> RecordedEmit {
        RecordedEmit {
            id: "1".into(),
            event_type: event_type.into(),
            subject: "7".into(),
            content_type: "application/json".into(),
            data: exact(data),
            delay_ms: 0,
            attributes: vec![("traceparent".into(), "00-1-2-01".into())],
        }
    }

    fn exact(text: &str) -> JsonBytes {
        JsonBytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn done(events: Vec<RecordedEmit>, writes: &[(&str, Option<&str>)]) -> Decision {
        let all = writes.iter().map(|(key, value)| ((*key).to_owned(), value.map(exact))).collect();
        Decision::Done { events, writes: Writes::All(all) }
    }

    fn described(before: &Decision, after: &Decision) -> Vec<String> {
        changes(before, after)
            .into_iter()
            .map(|change| format!("{}: {} -> {}", change.what, change.from, change.to))
            .collect()
    }

    #[test]
    fn equivalent_decisions_have_no_changes() {
        let was =
            done(vec![event("a", r#"{"x": 1, "y": [1.0]}"#)], &[("k", Some(r#"{"a":1,"b":2}"#))]);
        let mut other = event("a", r#"{"y":[1.0],"x":1}"#);
        other.attributes = vec![("tracestate".into(), "x=y".into())];
        other.id = "2".into();
        assert_eq!(
            described(&was, &done(vec![other], &[("k", Some(r#"{ "b": 2, "a": 1 }"#))])),
            [""; 0]
        );
        let fails = |retryable| Decision::Fails { code: "c".into(), retryable };
        assert_eq!(described(&fails(true), &fails(true)), [""; 0]);
        assert_eq!(
            described(&fails(true), &fails(false)),
            ["outcome: failed, retryable: c -> failed permanently: c"]
        );
    }

    #[test]
    fn every_field_of_an_event_is_compared() {
        let was = event("a", r#"{"amount":1,"lines":[1,2],"gone":true}"#);
        let is = RecordedEmit {
            subject: "8".into(),
            content_type: "text/json".into(),
            delay_ms: 5,
            attributes: vec![("tier".into(), "gold".into())],
            ..event("a", r#"{"amount":2,"lines":[1,3,4]}"#)
        };
        assert_eq!(
            described(&done(vec![was], &[]), &done(vec![is], &[])),
            [
                "event 1 subject: 7 -> 8",
                "event 1 content type: application/json -> text/json",
                "event 1 delay: 0 ms -> 5 ms",
                "event 1 attribute tier: none -> gold",
                "event 1 /amount: 1 -> 2",
                "event 1 /gone: true -> none",
                "event 1 /lines/1: 2 -> 3",
                "event 1 /lines/2: none -> 4",
            ]
        );
    }

    #[test]
    fn order_count_and_type_of_events_are_compared() {
        let (a, b) = (event("a", "1"), event("b", "2"));
        let was = done(vec![a.clone(), b.clone()], &[]);
        assert_eq!(
            described(&was, &done(vec![b.clone(), a.clone()], &[])),
            ["event 1: a 1 -> b 2", "event 2: b 2 -> a 1"]
        );
        assert_eq!(described(&was, &done(vec![a], &[])), ["event 2: b 2 -> none"]);
        assert_eq!(
            described(&was, &Decision::Skipped),
            ["outcome: done: a, b -> skipped: the type is not consumed"]
        );
        let fails = Decision::Fails { code: "trap:unreachable".into(), retryable: true };
        assert_eq!(
            described(&done(vec![], &[]), &fails),
            ["outcome: done, no events -> failed, retryable: trap:unreachable"]
        );
    }

    #[test]
    fn every_state_write_is_compared() {
        let was = done(
            vec![],
            &[("changed", Some("1")), ("dropped", Some("x")), ("removed", None), ("same", None)],
        );
        let is = done(
            vec![],
            &[
                ("changed", Some("2")),
                ("new", Some("n")),
                ("removed", Some("back")),
                ("same", None),
            ],
        );
        assert_eq!(
            described(&was, &is),
            [
                "state changed: 1 -> 2",
                "state dropped: x -> not written",
                "state new: not written -> n",
                "state removed: removed -> back"
            ]
        );
        // A digest only shows that something changed.
        let Decision::Done { writes, .. } = &was else { unreachable!() };
        let digest = Decision::Done { events: vec![], writes: Writes::Digest(writes.digest()) };
        assert_eq!(described(&digest, &was), [""; 0]);
        assert_eq!(described(&digest, &is).len(), 1);
    }

    #[test]
    fn changes_are_bounded_in_number_and_length() {
        let many = |value: u32| {
            let fields: BTreeMap<String, String> =
                (0..100).map(|at| (at.to_string(), value.to_string().repeat(1_000))).collect();
            done(vec![event("a", &serde_json::to_string(&fields).unwrap())], &[])
        };
        let changes = changes(&many(1), &many(2));
        assert_eq!(changes.len(), CHANGES_MAX);
        assert!(changes.iter().all(|change| change.from.chars().count() <= TEXT_MAX + 1));
    }
}
