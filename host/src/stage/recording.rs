//! Recordings: what a stage was given for one delivery, and what it decided, so that another build
//! of it can be asked the same later.
//!
//! A [`Recorder`] notes what a call asks for while it runs; what comes of it is one JSON document,
//! committed with the delivery. Bounds: `recording.max_bytes` per delivery, for the notes and for
//! the document; what does not fit is left out, and the recording says so. It carries no guarantee
//! of the pipeline: recording never makes a call or a commit fail. Secrets are never recorded.

mod json_bytes;
mod recorded;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::json_bytes::JsonBytes;
pub use self::recorded::{Recorded, RecordedEmit, RecordedEvent, RecordedOutcome};
use crate::domain::event::hex;
use crate::stage::state::StateWrites;
use crate::store::Verdict;

/// What an entry costs beside its key and value.
const ENTRY_BYTES: usize = 8;

/// Everything that is kept of one delivery beside its row and its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The clock as the stage saw it, milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// Answers that the stage got.
    #[serde(default, skip_serializing_if = "RecordedInputs::is_empty")]
    pub given: RecordedInputs,
    /// What it decided.
    pub decided: Decided,
}

/// Answers that a call got from its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedInputs {
    /// Plain settings by key; none: not set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Option<String>>,
    /// State as it stood before the call; none: absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reads: BTreeMap<String, Option<JsonBytes>>,
    /// Answers of `list-keys`, without the call's own writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<Listed>,
    /// There was more than fits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// One answer of `list-keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Keys that start with this.
    pub prefix: String,
    /// Keys that sort after this.
    pub after: String,
    /// At most so many.
    pub limit: u32,
    /// The answer.
    pub keys: Vec<String>,
}

/// What a stage decided; the events that it emitted are in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decided {
    /// Events, and these.
    Done {
        /// State that it wrote.
        writes: Writes,
        /// Delay of each event, milliseconds; empty when all go at once.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        delays_ms: Vec<u64>,
    },
    /// Nothing: its delivery died.
    Dead {
        /// As in the dead letter.
        code: String,
        /// It died because there were no tries left.
        retryable: bool,
    },
}

/// State that a call wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// Keys and values; none: removed.
    All(BTreeMap<String, Option<JsonBytes>>),
    /// SHA-256 over all of them, in hex: there was no room for more.
    Digest(String),
}

impl Listed {
    /// Whether this is the answer to that question, too: a list that was not full holds all there
    /// is.
    pub fn answers(&self, prefix: &str, after: &str, limit: u32) -> bool {
        self.prefix == prefix
            && self.after == after
            && (limit <= self.limit || self.keys.len() < self.limit as usize)
    }
}

impl Writes {
    /// All of them.
    pub fn of(writes: &StateWrites) -> Self {
        Self::All(
            writes.iter().map(|(key, value)| (key.clone(), value.clone().map(JsonBytes))).collect(),
        )
    }

    /// What two sets of writes have in common only when they are the same.
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
    /// What a verdict says for good; nothing for one that leaves the delivery open.
    pub fn of(verdict: &Verdict, retryable: bool, writes: &StateWrites) -> Option<Self> {
        match verdict {
            Verdict::Done(events) => {
                let delays = events
                    .iter()
                    .map(|event| event.due_at_ms.saturating_sub(event.envelope.event.time_ms));
                let mut delays_ms: Vec<u64> = delays.collect();
                if delays_ms.iter().all(|delay_ms| *delay_ms == 0) {
                    delays_ms.clear();
                }
                Some(Self::Done { writes: Writes::of(writes), delays_ms })
            }
            Verdict::Dead { code, .. } => Some(Self::Dead { code: code.clone(), retryable }),
            Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => None,
        }
    }
}

impl RecordedInputs {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Keeps the entries that fit into so many bytes of JSON, settings first, and says when one did
    /// not.
    fn cut(&mut self, max_bytes: usize) {
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
    /// The document, of at most `max_bytes`; nothing when not even the decision fits.
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
        self.given.cut(max_bytes.saturating_sub(frame));
        Some(json(&self)).filter(|text| text.len() <= max_bytes)
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys always serialise")
}

/// Notes what a call is given. Clones are one recorder; [`Recorder::default`] notes nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Mutex<Notes>>>);

#[derive(Debug)]
struct Notes {
    max_bytes: usize,
    bytes: usize,
    given: RecordedInputs,
}

impl Recorder {
    /// Notes at most `max_bytes`, and makes a document of at most so many.
    pub fn new(max_bytes: usize) -> Self {
        Self(Some(Arc::new(Mutex::new(Notes {
            max_bytes,
            bytes: 0,
            given: RecordedInputs::default(),
        }))))
    }

    /// A value that was read from state, own writes excepted.
    pub(crate) fn read(&self, key: &str, value: Option<&Bytes>) {
        let size = key.len() + value.map_or(0, Bytes::len);
        self.note(
            size,
            |given| !given.reads.contains_key(key),
            |given| _ = given.reads.insert(key.to_owned(), value.cloned().map(JsonBytes)),
        );
    }

    /// An answer of `list-keys`, own writes excepted.
    pub(crate) fn listed(&self, (prefix, after, limit): (&str, &str, u32), keys: &[String]) {
        let size = prefix.len()
            + after.len()
            + keys.iter().map(|key| key.len() + ENTRY_BYTES).sum::<usize>();
        let is_new = |given: &RecordedInputs| {
            !given.lists.iter().any(|list| list.answers(prefix, after, limit))
        };
        let listed = || Listed {
            prefix: prefix.to_owned(),
            after: after.to_owned(),
            limit,
            keys: keys.to_vec(),
        };
        self.note(size, is_new, |given| given.lists.push(listed()));
    }

    /// The answer to a question for a plain setting. A secret must not come here.
    pub(crate) fn setting(&self, key: &str, value: Option<&str>) {
        let size = key.len() + value.map_or(0, str::len);
        let add = |given: &mut RecordedInputs| {
            _ = given.settings.insert(key.to_owned(), value.map(str::to_owned))
        };
        self.note(size, |given| !given.settings.contains_key(key), add);
    }

    fn note(
        &self,
        size: usize,
        is_new: impl FnOnce(&RecordedInputs) -> bool,
        add: impl FnOnce(&mut RecordedInputs),
    ) {
        let Some(notes) = &self.0 else { return };
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_new(&notes.given) {
            return;
        }
        let bytes = notes.bytes.saturating_add(size).saturating_add(ENTRY_BYTES);
        if bytes > notes.max_bytes {
            notes.given.incomplete = true;
            return;
        }
        notes.bytes = bytes;
        add(&mut notes.given);
    }

    /// What was noted so far.
    pub fn given(&self) -> RecordedInputs {
        self.0
            .as_ref()
            .map(|notes| notes.lock().unwrap_or_else(PoisonError::into_inner).given.clone())
            .unwrap_or_default()
    }

    /// The document of a call that came to a decision, in JSON.
    pub(crate) fn finish(
        self,
        now_ms: u64,
        decided: impl FnOnce() -> Option<Decided>,
    ) -> Option<String> {
        let notes = self.0?;
        let decided = decided()?;
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let given = std::mem::take(&mut notes.given);
        Recording { now_ms, given, decided }.encode(notes.max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::state::{BatchState, LaneCache};
    use crate::store::memory::MemoryState;

    fn done(writes: &[(&str, Option<&'static str>)]) -> Decided {
        let writes = writes
            .iter()
            .map(|(key, value)| {
                (
                    (*key).to_owned(),
                    value.map(|text: &'static str| Bytes::from_static(text.as_bytes())),
                )
            })
            .collect();
        Decided::Done { writes: Writes::of(&writes), delays_ms: Vec::new() }
    }

    fn finish(recorder: Recorder, decided: Decided) -> Option<(String, Recording)> {
        let text = recorder.finish(7, || Some(decided))?;
        let read = serde_json::from_str(&text).unwrap();
        Some((text, read))
    }

    #[test]
    fn a_recording_is_compact_and_reads_back() {
        let recorder = Recorder::new(4_096);
        recorder.read("stock/Book", Some(&Bytes::from_static(b"{\"n\":1}")));
        recorder.read("stock/Lamp", None);
        recorder.read("odd", Some(&Bytes::from_static(b"\xff\x00")));
        recorder.setting("limit", None);
        recorder.listed(("a", "", 9), &["ab".into()]);
        recorder.listed(("a", "", 4), &["ab".into()]);
        let (text, read) = finish(recorder, done(&[("k", Some("v")), ("gone", None)])).unwrap();
        assert_eq!(
            text,
            r#"{"now_ms":7,"given":{"settings":{"limit":null},"reads":{"odd":{"base64":"/wA="},"stock/Book":"{\"n\":1}","stock/Lamp":null},"lists":[{"prefix":"a","after":"","limit":9,"keys":["ab"]}]},"decided":{"done":{"writes":{"all":{"gone":null,"k":"v"}}}}}"#
        );
        assert_eq!(read.given.reads["odd"], Some(JsonBytes(Bytes::from_static(b"\xff\x00"))));
        assert_eq!(read.decided, done(&[("k", Some("v")), ("gone", None)]));
    }

    #[test]
    fn the_first_answer_counts_and_none_is_kept_when_off() {
        let recorder = Recorder::new(100);
        recorder.read("k", None);
        recorder.read("k", Some(&Bytes::from_static(b"later")));
        assert_eq!(recorder.given().reads["k"], None);
        let off = Recorder::default();
        off.read("k", None);
        assert!(off.given().is_empty());
        assert!(off.finish(1, || panic!("nothing is asked")).is_none());
        assert!(
            Recorder::new(100).finish(1, || None).is_none(),
            "an open delivery has no recording"
        );
    }

    #[tokio::test]
    async fn a_call_is_recorded_as_it_saw_the_state_without_its_own_writes() {
        let stored = ["a/1", "a/2", "k"].map(|key| (key.to_owned(), Bytes::from_static(b"stored")));
        let limits = crate::runtime::StageLimits::default().state_limits();
        let state = BatchState::new(
            "s".into(),
            Arc::new(MemoryState(stored.into())),
            limits,
            LaneCache::placeholder(),
        );
        // An earlier message of the batch.
        state.merge(StateWrites::from([
            ("k".to_owned(), Some(Bytes::from_static(b"earlier"))),
            ("a/1".to_owned(), None),
        ]));
        let recorder = Recorder::new(4_096);
        let mut view = state.recorded_view(recorder.clone());
        view.set("own".to_owned(), Bytes::from_static(b"1")).unwrap();
        view.set("a/0".to_owned(), Bytes::from_static(b"1")).unwrap();
        view.get("own").await.unwrap();
        view.get("k").await.unwrap();
        view.set("k".to_owned(), Bytes::from_static(b"mine")).unwrap();
        view.get("k").await.unwrap();
        view.get("a/1").await.unwrap();
        assert_eq!(view.list_keys("a/", "", 9).await.unwrap(), ["a/0", "a/2"]);
        let given = recorder.given();
        let expected = [("a/1", None), ("k", Some(JsonBytes(Bytes::from_static(b"earlier"))))]
            .map(|(key, value)| (key.to_owned(), value));
        assert_eq!(given.reads, BTreeMap::from(expected));
        assert_eq!(
            given.lists,
            [Listed {
                prefix: "a/".into(),
                after: String::new(),
                limit: 9,
                keys: vec!["a/2".into()]
            }]
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let recorder = Recorder::new(300);
        recorder.setting("limit", Some("10"));
        recorder.read("small", Some(&Bytes::from_static(b"1")));
        recorder.read("large", Some(&Bytes::from(vec![b'x'; 400])));
        let big = "y".repeat(300);
        let writes = StateWrites::from([("w".to_owned(), Some(Bytes::from(big)))]);
        let decided = Decided::Done { writes: Writes::of(&writes), delays_ms: Vec::new() };
        let (text, read) = finish(recorder, decided).unwrap();
        assert!(text.len() <= 300, "{} bytes", text.len());
        assert!(read.given.incomplete && !read.given.reads.contains_key("large"));
        assert_eq!((read.given.settings.len(), read.given.reads.len()), (1, 1), "{text}");
        let Decided::Done { writes: Writes::Digest(digest), .. } = read.decided else {
            panic!("{text}")
        };
        assert_eq!(digest, Writes::of(&writes).digest());
        // Text that grows when it is written as JSON is cut when it is written.
        let recorder = Recorder::new(300);
        for key in ["a", "b", "c"] {
            recorder.read(key, Some(&Bytes::from(vec![1; 60])));
        }
        let (text, read) = finish(recorder, done(&[])).unwrap();
        assert!(
            text.len() <= 300 && read.given.incomplete && read.given.reads.is_empty(),
            "{text}"
        );
        // Not even the decision fits.
        let decided = Decided::Dead { code: "c".repeat(400), retryable: true };
        assert!(finish(Recorder::new(300), decided).is_none());
    }

    #[test]
    fn writes_that_differ_have_different_digests() {
        let digest = |decided| match decided {
            Decided::Done { writes, .. } => writes.digest(),
            Decided::Dead { .. } => unreachable!(),
        };
        let all = [
            done(&[]),
            done(&[("k", None)]),
            done(&[("k", Some(""))]),
            done(&[("k", Some("v"))]),
            done(&[("kv", Some(""))]),
            // The same bytes one after another.
            done(&[("a", Some("b")), ("c", Some("d"))]),
            done(&[("a", Some("bcsetd"))]),
        ];
        let digests: std::collections::BTreeSet<String> = all.into_iter().map(digest).collect();
        assert_eq!(digests.len(), 7);
    }
}
