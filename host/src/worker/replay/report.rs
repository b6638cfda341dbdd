//! The report of a replay: counts, and the events whose decision is not equal.
//!
//! Bound: so many events of each verdict, and what bounds the changes of one event.

use serde::Serialize;

use super::{Change, ReplayVerdict};
use crate::domain::subject::SubjectKey;
use crate::stage::recording::Recorded;

/// Counts, and the first events of each verdict but `equal`.
#[derive(Debug, Default)]
pub struct ReplayReport {
    listed_max: usize,
    /// Events with the same decision.
    pub equal: u64,
    /// Events with another decision.
    pub different: u64,
    /// Events whose decision is not known, because something was not recorded.
    pub unknown: u64,
    /// Events that could not be run.
    pub failed: u64,
    /// The first events with another decision.
    pub differences: Vec<ReplayedEvent<Differences>>,
    /// The first events whose decision is not known.
    pub unknowns: Vec<ReplayedEvent<Reason>>,
    /// The first events that could not be run.
    pub failures: Vec<ReplayedEvent<Reason>>,
    /// Whether there are more events than were replayed.
    pub more: bool,
}

/// An event and the result of its replay.
#[derive(Debug, Serialize)]
pub struct ReplayedEvent<T> {
    /// The subject that the event belongs to.
    pub subject_key: Option<SubjectKey>,
    /// The event.
    pub event: ReplayedEventName,
    /// When its delivery was settled, milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: u64,
    /// Version of the plugin that settled it.
    pub version: Option<String>,
    /// Digest of the plugin that settled it.
    pub digest: Option<String>,
    /// What the replay found.
    #[serde(flatten)]
    pub result: T,
}

/// How two decisions differ.
#[derive(Debug, Serialize)]
pub struct Differences {
    /// At least one.
    pub changes: Vec<Change>,
}

/// Why there is no decision to compare.
#[derive(Debug, Serialize)]
pub struct Reason {
    /// For people.
    pub reason: String,
}

/// Which event it is.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "as CloudEvents has it; see `event::Event`")]
pub struct ReplayedEventName {
    #[serde(rename = "type")]
    pub event_type: String,
    pub id: String,
    pub source: String,
    pub subject: String,
}

impl<T> ReplayedEvent<T> {
    fn of(recorded: &Recorded, result: T) -> Self {
        let event = &recorded.event;
        Self {
            subject_key: recorded.subject_key.clone(),
            event: ReplayedEventName {
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
}

impl ReplayReport {
    /// Lists at most `listed_max` events of each verdict; counts all of them.
    pub fn new(listed_max: usize) -> Self {
        Self { listed_max, ..Self::default() }
    }

    /// Adds the result of one event.
    pub fn note(&mut self, recorded: &Recorded, verdict: ReplayVerdict) {
        match verdict {
            ReplayVerdict::Equal => self.equal += 1,
            ReplayVerdict::Different(changes) => {
                self.different += 1;
                if self.differences.len() < self.listed_max {
                    self.differences.push(ReplayedEvent::of(recorded, Differences { changes }));
                }
            }
            ReplayVerdict::Unknown(reason) => {
                self.unknown += 1;
                if self.unknowns.len() < self.listed_max {
                    self.unknowns.push(ReplayedEvent::of(recorded, Reason { reason }));
                }
            }
            ReplayVerdict::Failed(reason) => {
                self.failed += 1;
                if self.failures.len() < self.listed_max {
                    self.failures.push(ReplayedEvent::of(recorded, Reason { reason }));
                }
            }
        }
    }

    /// Events that were replayed.
    pub fn count(&self) -> u64 {
        self.equal + self.different + self.unknown + self.failed
    }
}
