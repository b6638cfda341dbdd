//! The report of a replay, as text and as JSON.
//!
//! JSON has every difference, at most one per event; the text has at most `--show` of them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use postrider::internals::{Recorded, ReplayReport, ReplayVerdict, ReplayedEvent};

/// What was found, and how much of it is printed.
pub(super) struct Report {
    show: usize,
    found: ReplayReport,
}

/// `order/7  order.created order-7  (decided by 1.0.0)`
fn title<T>(entry: &ReplayedEvent<T>) -> String {
    let ReplayedEvent { subject_key, event, version, .. } = entry;
    let about = subject_key.as_ref().map_or_else(|| event.subject.clone(), ToString::to_string);
    let version = version.as_deref().unwrap_or("?");
    format!("{about}  {} {}  (decided by {version})", event.event_type, event.id)
}

impl Report {
    pub(super) fn new(show: usize) -> Self {
        Self { show, found: ReplayReport::new(usize::MAX) }
    }

    pub(super) fn note(&mut self, recorded: &Recorded, verdict: ReplayVerdict) {
        self.found.note(recorded, verdict);
    }

    /// Sets whether there are more events than the limit.
    pub(super) fn set_more(&mut self, more: bool) {
        self.found.more = more;
    }

    /// Whether every event ran and no decision differs.
    pub(super) fn is_clean(&self) -> bool {
        self.found.different == 0 && self.found.failed == 0
    }

    /// Whether, in addition, every decision is known and there is at least one.
    pub(super) fn is_strictly_clean(&self) -> bool {
        self.is_clean() && self.found.unknown == 0 && self.found.count() > 0
    }

    pub(super) fn json(&self) -> Value {
        let found = &self.found;
        json!({
            "events": found.count(),
            "equal": found.equal,
            "different": found.different,
            "unknown": found.unknown,
            "failed": found.failed,
            "more": found.more,
            "differences": found.differences,
            "unknowns": found.unknowns,
            "failures": found.failures,
        })
    }

    pub(super) fn text(&self) -> String {
        let (found, mut text) = (&self.found, String::new());
        for entry in found.differences.iter().take(self.show) {
            let _ = writeln!(text, "{}", title(entry));
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
        self.rest(&mut text, found.differences.len(), "differences");
        for (what, entry) in [("unknown", &found.unknowns), ("failed to run", &found.failures)] {
            for entry in entry.iter().take(self.show) {
                let _ = writeln!(text, "{what}: {}: {}", title(entry), entry.result.reason);
            }
            self.rest(&mut text, entry.len(), what);
        }
        if found.count() == 0 {
            let _ = writeln!(
                text,
                "no recordings: no event of the stage was settled in this period, \
                 or recording.enabled is false"
            );
        }
        if found.more {
            let _ = writeln!(text, "more events are recorded: raise --limit");
        }
        let ReplayReport { equal, different, unknown, failed, .. } = found;
        let _ = writeln!(
            text,
            "{} events: {equal} equal, {different} different, {unknown} unknown, \
             {failed} failed to run",
            found.count()
        );
        text
    }

    fn rest(&self, text: &mut String, count: usize, what: &str) {
        if let Some(rest) = count.checked_sub(self.show).filter(|rest| *rest > 0) {
            let _ = writeln!(text, "… and {rest} more {what}: raise --show, or use --json");
        }
    }
}
