//! Recordings: the inputs of one call and its decision, so that another build of the stage can
//! replay it.
//!
//! A [`Recorder`] collects the answers that a call gets from the host; the result is one JSON
//! document that is committed with the delivery. Bounds: `recording.max_bytes` for each delivery,
//! for the answers and for the document; entries that do not fit are left out and the recording is
//! marked as incomplete. It carries no guarantee of the pipeline: recording never makes a call or a
//! commit fail. Secrets are never recorded.

mod json_bytes;
mod recorded;
mod recorder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::json_bytes::JsonBytes;
pub use self::recorded::{Recorded, RecordedEmit, RecordedEvent, RecordedOutcome};
pub use self::recorder::Recorder;
use crate::domain::event::hex;
use crate::stage::state_writes::StateWrites;
use crate::store::Verdict;

/// The recording of one delivery. Its row and its events are stored elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The clock as the stage saw it, milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// Answers that the stage got from the host.
    #[serde(default, skip_serializing_if = "RecordedInputs::is_empty")]
    pub given: RecordedInputs,
    /// The decision.
    pub decided: Decided,
}

/// Answers that a call got from its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedInputs {
    /// Settings that are not secret, by key; none: not set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Option<String>>,
    /// State before the call, by key; none: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reads: BTreeMap<String, Option<JsonBytes>>,
    /// Answers of `list-keys`, without the call's own writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Listed>,
    /// Entries were left out because they did not fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// One answer of `list-keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The prefix that was asked for.
    pub prefix: String,
    /// Keys that sort after this one were asked for.
    pub after: String,
    /// Most keys that were asked for.
    pub limit: u32,
    /// The keys that were returned.
    pub keys: Vec<String>,
}

/// A decision; the emitted events are in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decided {
    /// The delivery is done.
    Done {
        /// State that the call wrote.
        writes: Writes,
        /// Delay of each event, milliseconds; empty when there are no delays.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        delays_ms: Vec<u64>,
    },
    /// The delivery was dead-lettered.
    Dead {
        /// Code of the dead letter.
        code: String,
        /// No attempts were left; otherwise no further attempt could resolve the error.
        retryable: bool,
    },
}

/// State that a call wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// Values by key; none: removed.
    All(BTreeMap<String, Option<JsonBytes>>),
    /// SHA-256 over all of them, in hex, because the values did not fit.
    Digest(String),
}

/// A question to `list-keys`.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery<'a> {
    /// Keys that start with this.
    pub prefix: &'a str,
    /// Keys that sort after this.
    pub after: &'a str,
    /// Most keys to return.
    pub limit: u32,
}

impl Listed {
    /// Whether this also answers `query`: a list shorter than its limit is complete.
    pub fn answers(&self, query: ListQuery<'_>) -> bool {
        self.prefix == query.prefix
            && self.after == query.after
            && (query.limit <= self.limit || self.keys.len() < self.limit as usize)
    }
}

/// What a decision needs to know about its call beside the verdict.
#[derive(Debug)]
pub struct CallResult {
    /// See [`Outcome::is_retryable`](crate::stage::outcome::Outcome::is_retryable).
    pub retryable: bool,
    /// State that the call wrote.
    pub writes: StateWrites,
}

impl Writes {
    /// The writes with their values.
    pub fn of(writes: &StateWrites) -> Self {
        Self::All(
            writes.iter().map(|(key, value)| (key.clone(), value.clone().map(JsonBytes))).collect(),
        )
    }

    /// A hash over keys and values: equal for equal writes only.
    pub fn digest(&self) -> String {
        let all = match self {
            Self::All(all) => all,
            Self::Digest(digest) => return digest.clone(),
        };
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for (key, value) in all {
            part(key.as_bytes());
            part(if value.is_some() { b"set" } else { b"removed" });
            part(value.as_ref().map_or(&[], |value| &value.0));
        }
        hex(&hash.finalize())
    }
}

impl Decided {
    /// The decision in a verdict; none for a verdict that settles nothing by a call.
    pub fn of(verdict: &Verdict, call: &CallResult) -> Option<Self> {
        match verdict {
            Verdict::Done(events) => {
                let delays = events
                    .iter()
                    .map(|event| event.due_at_ms.saturating_sub(event.envelope.event.time_ms));
                let mut delays_ms: Vec<u64> = delays.collect();
                if delays_ms.iter().all(|delay_ms| *delay_ms == 0) {
                    delays_ms.clear();
                }
                Some(Self::Done { writes: Writes::of(&call.writes), delays_ms })
            }
            Verdict::Dead { code, .. } => {
                Some(Self::Dead { code: code.clone(), retryable: call.retryable })
            }
            Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => None,
        }
    }
}

impl RecordedInputs {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Keeps the entries that fit into `max_bytes` of JSON, settings first; marks the recording as
    /// incomplete when one does not fit.
    fn truncate(&mut self, max_bytes: usize) {
        let mut room = max_bytes;
        let mut lost = false;
        let mut fits = |bytes: usize| {
            let fits = bytes <= room;
            room -= if fits { bytes } else { 0 };
            lost |= !fits;
            fits
        };
        self.settings.retain(|key, value| fits(json(&(key, value)).len()));
        self.reads.retain(|key, value| fits(json(&(key, value)).len()));
        self.lists.retain(|list| fits(json(list).len() + 1));
        self.incomplete |= lost;
    }
}

impl Recording {
    /// The document, of at most `max_bytes`; none when not even the decision fits.
    fn encode(mut self, max_bytes: usize) -> Option<String> {
        let whole = json(&self);
        if whole.len() <= max_bytes {
            return Some(whole);
        }
        if let Decided::Done { writes, .. } = &mut self.decided {
            *writes = Writes::Digest(writes.digest());
        }
        let given = std::mem::replace(
            &mut self.given,
            RecordedInputs { incomplete: true, ..RecordedInputs::default() },
        );
        // The names of the three parts, when they are not empty.
        let frame = json(&self).len() + r#""settings":{},"reads":{},"lists":[],"#.len();
        self.given = given;
        self.given.truncate(max_bytes.saturating_sub(frame));
        Some(json(&self)).filter(|text| text.len() <= max_bytes)
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys always serialise")
}
