//! Recordings as every store keeps them, their filter, and the cursor of their list.

use crate::domain::event::{Envelope, Event};
use crate::domain::subject::SubjectKey;

/// A settled delivery with its recording.
#[derive(Debug, Clone)]
pub struct RecordedDelivery {
    /// Its position in the list.
    pub at: RecordingCursor,
    /// Its event.
    pub envelope: Envelope,
    /// Round, from 1: each replay starts the next one.
    pub round: u32,
    /// The attempt that settled it, from 1.
    pub attempt: u32,
    /// Plugin version that settled it.
    pub version: Option<String>,
    /// Digest that settled it.
    pub digest: Option<String>,
    /// The host that settled it; none: a version of the program that did not record it.
    pub host: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: u64,
    /// See [`crate::stage::recording::Recording`].
    pub recording: String,
    /// The events that it emitted, in their order; none when one of them was deleted from the log.
    pub emitted: Option<Vec<Event>>,
}

/// A position in the list of a stage's recordings, which is in the order of settlement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordingCursor {
    /// When the delivery was settled, milliseconds since 1970-01-01 UTC.
    pub settled_ms: i64,
    /// Position of its event in the log.
    pub event_seq: i64,
}

impl RecordingCursor {
    /// Before everything that was settled at this time or later.
    pub fn before(since_ms: i64) -> Self {
        Self { settled_ms: since_ms.saturating_sub(1), event_seq: i64::MAX }
    }
}

impl std::fmt::Display for RecordingCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.settled_ms, self.event_seq)
    }
}

impl std::str::FromStr for RecordingCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('.')
            .and_then(|(time, seq)| Some((time.parse().ok()?, seq.parse().ok()?)));
        let (settled_ms, event_seq) =
            parts.ok_or_else(|| format!("`{text}` is not a cursor of this list"))?;
        Ok(Self { settled_ms, event_seq })
    }
}

/// Filters of the list of recordings, oldest first.
#[derive(Debug, Clone)]
pub struct RecordingFilter {
    /// The stage.
    pub stage: String,
    /// Only this subject's.
    pub subject: Option<SubjectKey>,
    /// Only those after this position.
    pub after: RecordingCursor,
    /// Page size.
    pub limit: u32,
}
