//! The event log as every store keeps it: filters, ranges and cursors.
//!
//! Positions grow along causes: an event that another one caused has a higher position.

use std::str::FromStr;

use super::LoggedEvent;
use crate::domain::event::topic_matches;
use crate::domain::subject::SubjectKey;

/// Which events of the log; all conditions apply.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only this subject's.
    pub subject: Option<SubjectKey>,
    /// Only types that this topic pattern covers (`*` one word, `#` any number of words).
    pub event_type: Option<String>,
    /// Only of this source.
    pub source: Option<String>,
    /// Only produced by this stage.
    pub stage: Option<String>,
    /// Only events with this correlation id.
    pub correlation: Option<String>,
    /// Only what entered the log then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only what entered the log before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
}

impl EventFilter {
    /// Whether an event matches.
    pub fn matches(&self, logged: &LoggedEvent) -> bool {
        let (envelope, event) = (&logged.envelope, &logged.envelope.event);
        let at_ms = logged.logged_at_ms;
        let is = |wanted: &Option<String>, present: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == present)
        };
        self.subject.as_ref().is_none_or(|wanted| Some(wanted) == envelope.subject_key.as_ref())
            && is(&self.source, Some(&event.source))
            && is(&self.stage, logged.stage.as_deref())
            && is(&self.correlation, Some(&envelope.correlation_id))
            && self
                .event_type
                .as_deref()
                .is_none_or(|pattern| topic_matches(pattern, &event.event_type))
            && self.since_ms.is_none_or(|since_ms| at_ms >= since_ms)
            && self.until_ms.is_none_or(|until_ms| at_ms < until_ms)
    }
}

/// From which end a list is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    #[default]
    Oldest,
    /// Newest first.
    Newest,
}

impl FromStr for Direction {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            _ => Err("must be `oldest` or `newest`"),
        }
    }
}

impl Direction {
    /// Its name in SQL.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Oldest => "ASC",
            Self::Newest => "DESC",
        }
    }
}

/// A part of the log: after one position, up to another one.
#[derive(Debug, Clone, Copy)]
pub struct LogRange {
    /// Only events after this position.
    pub after: i64,
    /// No event after this position: see [`super::Store::log_end`].
    pub up_to: i64,
    /// Page size.
    pub limit: u32,
    /// Where the page begins. The next one of the newest events is up to the position before its
    /// cursor.
    pub direction: Direction,
}

/// A position in a subject's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectCursor {
    /// The subject.
    pub subject: SubjectKey,
    /// Only events after this position of the log; 0: all.
    pub after: i64,
}

/// A subject whose deliveries are all settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledSubject {
    /// The subject.
    pub subject: SubjectKey,
    /// Its status.
    pub status: String,
}
