//! What a replay came to, for people and as JSON.
//!
//! Bounds: all differences are kept for `--json` (there are at most as many as events), `--show` of
//! them are printed for people.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::replay::engine::{Change, Verdict};
use postrider::stage::recording::Recorded;

/// Counts, and what is worth a look.
pub(super) struct Report {
    show: usize,
    equal: u64,
    different: Vec<Told<Differs>>,
    unknown: Vec<Told<Fails>>,
    failed: Vec<Told<Fails>>,
    /// The limit left something out.
    pub(super) more: bool,
}

/// An event and what is said of it.
#[derive(Serialize)]
struct Told<T> {
    order_id: Option<String>,
    event: EventName,
    settled_at_ms: u64,
    version: Option<String>,
    digest: Option<String>,
    #[serde(flatten)]
    said: T,
}

#[derive(Serialize)]
struct Differs {
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Fails {
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

impl<T> Told<T> {
    fn of(recorded: &Recorded, said: T) -> Self {
        let event = &recorded.event;
        Self {
            order_id: recorded.order_id.clone(),
            event: EventName {
                event_type: event.event_type.clone(),
                id: event.id.clone(),
                source: event.source.clone(),
                subject: event.subject.clone(),
            },
            settled_at_ms: recorded.settled_at_ms,
            version: recorded.version.clone(),
            digest: recorded.digest.clone(),
            said,
        }
    }

    /// `order 7  order.created order-7  (decided by 1.0.0)`
    fn title(&self) -> String {
        let about = self
            .order_id
            .as_ref()
            .map_or_else(|| self.event.subject.clone(), |order| format!("order {order}"));
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
                self.different.push(Told::of(recorded, Differs { changes }))
            }
            Verdict::Unknown(reason) => self.unknown.push(Told::of(recorded, Fails { reason })),
            Verdict::Failed(reason) => self.failed.push(Told::of(recorded, Fails { reason })),
        }
    }

    fn count(&self) -> u64 {
        self.equal + (self.different.len() + self.unknown.len() + self.failed.len()) as u64
    }

    /// Nothing differs and everything ran; when strict, everything is known and there was something
    /// to know.
    pub(super) fn is_clean(&self, strict: bool) -> bool {
        let known = self.unknown.is_empty() && self.count() > 0;
        self.different.is_empty() && self.failed.is_empty() && (known || !strict)
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
        for told in self.different.iter().take(self.show) {
            let _ = writeln!(text, "{}", told.title());
            let width = told
                .said
                .changes
                .iter()
                .map(|change| change.what.chars().count())
                .max()
                .unwrap_or(0);
            for change in &told.said.changes {
                let _ = writeln!(text, "  {:<width$}  {}", change.what, change.from);
                let _ = writeln!(text, "  {:<width$}  → {}", "", change.to);
            }
        }
        self.rest(&mut text, self.different.len(), "differences");
        for (what, told) in [("unknown", &self.unknown), ("failed to run", &self.failed)] {
            for told in told.iter().take(self.show) {
                let _ = writeln!(text, "{what}: {}: {}", told.title(), told.said.reason);
            }
            self.rest(&mut text, told.len(), what);
        }
        if self.count() == 0 {
            let _ = writeln!(
                text,
                "nothing is recorded: no event of the stage was settled then, or recording.enabled is false"
            );
        }
        if self.more {
            let _ = writeln!(text, "there are more events: raise --limit");
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
            let _ = writeln!(text, "… and {rest} more {what}: raise --show, or take --json");
        }
    }
}
