//! The report of a replay, as text and as JSON.
//!
//! JSON has every difference, at most one per event; the text has at most `--show` of them.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::replay::engine::{Change, Verdict};
use postrider::SubjectKey;
use postrider::internals::Recorded;

/// Counts, and every event whose decision is not equal.
pub(super) struct Report {
    show: usize,
    equal: u64,
    different: Vec<Entry<Differences>>,
    unknown: Vec<Entry<Reason>>,
    failed: Vec<Entry<Reason>>,
    /// Whether there are more events than the limit.
    pub(super) more: bool,
}

/// An event and the result of its replay.
#[derive(Serialize)]
struct Entry<T> {
    subject_key: Option<SubjectKey>,
    event: EventName,
    settled_at_ms: u64,
    version: Option<String>,
    digest: Option<String>,
    #[serde(flatten)]
    result: T,
}

#[derive(Serialize)]
struct Differences {
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Reason {
    reason: String,
}

#[derive(Serialize)]
struct EventName {
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    source: String,
    subject: String,
}

impl<T> Entry<T> {
    fn of(recorded: &Recorded, result: T) -> Self {
        let event = &recorded.event;
        Self {
            subject_key: recorded.subject_key.clone(),
            event: EventName {
                event_type: event.event_type.clone(),
                id: event.id.clone(),
                source: event.source.clone(),
                subject: event.subject.clone(),
            },
            settled_at_ms: recorded.settled_at_ms,
            version: recorded.version.clone(),
            digest: recorded.digest.clone(),
            result,
        }
    }

    /// `order/7  order.created order-7  (decided by 1.0.0)`
    fn title(&self) -> String {
        let about = self
            .subject_key
            .as_ref()
            .map_or_else(|| self.event.subject.clone(), ToString::to_string);
        let version = self.version.as_deref().unwrap_or("?");
        format!("{about}  {} {}  (decided by {version})", self.event.event_type, self.event.id)
    }
}

impl Report {
    pub(super) fn new(show: usize) -> Self {
        Self {
            show,
            equal: 0,
            different: Vec::new(),
            unknown: Vec::new(),
            failed: Vec::new(),
            more: false,
        }
    }

    pub(super) fn note(&mut self, recorded: &Recorded, verdict: Verdict) {
        match verdict {
            Verdict::Equal => self.equal += 1,
            Verdict::Different(changes) => {
                self.different.push(Entry::of(recorded, Differences { changes }));
            }
            Verdict::Unknown(reason) => self.unknown.push(Entry::of(recorded, Reason { reason })),
            Verdict::Failed(reason) => self.failed.push(Entry::of(recorded, Reason { reason })),
        }
    }

    fn count(&self) -> u64 {
        self.equal + (self.different.len() + self.unknown.len() + self.failed.len()) as u64
    }

    /// Whether every event ran and no decision differs.
    pub(super) fn is_clean(&self) -> bool {
        self.different.is_empty() && self.failed.is_empty()
    }

    /// Whether, in addition, every decision is known and there is at least one.
    pub(super) fn is_strictly_clean(&self) -> bool {
        self.is_clean() && self.unknown.is_empty() && self.count() > 0
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "events": self.count(),
            "equal": self.equal,
            "different": self.different.len(),
            "unknown": self.unknown.len(),
            "failed": self.failed.len(),
            "more": self.more,
            "differences": self.different,
            "unknowns": self.unknown,
            "failures": self.failed,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for entry in self.different.iter().take(self.show) {
            let _ = writeln!(text, "{}", entry.title());
            let width = entry
                .result
                .changes
                .iter()
                .map(|change| change.what.chars().count())
                .max()
                .unwrap_or(0);
            for change in &entry.result.changes {
                let _ = writeln!(text, "  {:<width$}  {}", change.what, change.from);
                let _ = writeln!(text, "  {:<width$}  → {}", "", change.to);
            }
        }
        self.rest(&mut text, self.different.len(), "differences");
        for (what, entry) in [("unknown", &self.unknown), ("failed to run", &self.failed)] {
            for entry in entry.iter().take(self.show) {
                let _ = writeln!(text, "{what}: {}: {}", entry.title(), entry.result.reason);
            }
            self.rest(&mut text, entry.len(), what);
        }
        if self.count() == 0 {
            let _ = writeln!(
                text,
                "no recordings: no event of the stage was settled in this period, \
                 or recording.enabled is false"
            );
        }
        if self.more {
            let _ = writeln!(text, "more events are recorded: raise --limit");
        }
        let (different, unknown, failed) =
            (self.different.len(), self.unknown.len(), self.failed.len());
        let _ = writeln!(
            text,
            "{} events: {} equal, {different} different, {unknown} unknown, {failed} failed to run",
            self.count(),
            self.equal
        );
        text
    }

    fn rest(&self, text: &mut String, count: usize, what: &str) {
        if let Some(rest) = count.checked_sub(self.show).filter(|rest| *rest > 0) {
            let _ = writeln!(text, "… and {rest} more {what}: raise --show, or use --json");
        }
    }
}
