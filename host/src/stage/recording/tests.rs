//! What a recorder keeps, and how it is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::stage::settings::{Secrets, Settings};
use crate::stage::state::{BatchState, LaneCache};
use crate::store::memory::MemoryState;

fn done(writes: &[(&str, Option<&'static str>)]) -> Decided {
    let writes = writes
        .iter()
        .map(|(key, value)| {
            ((*key).to_owned(), value.map(|text: &'static str| Bytes::from_static(text.as_bytes())))
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
fn a_recording_survives_serialisation() {
    let recorder = Recorder::new(4_096, Arc::default());
    recorder.read("stock/Book", Some(&Bytes::from_static(b"{\"n\":1}")));
    recorder.read("stock/Lamp", None);
    recorder.read("odd", Some(&Bytes::from_static(b"\xff\x00")));
    recorder.setting("limit", None);
    recorder.listed(ListQuery { prefix: "a", after: "", limit: 9 }, &["ab".into()]);
    recorder.listed(ListQuery { prefix: "a", after: "", limit: 4 }, &["ab".into()]);
    let (text, read) = finish(recorder, done(&[("k", Some("v")), ("gone", None)])).unwrap();
    assert_eq!(
        text,
        r#"{"now_ms":7,"given":{"settings":{"limit":null},"reads":{"odd":{"base64":"/wA="},"stock/Book":"{\"n\":1}","stock/Lamp":null},"lists":[{"prefix":"a","after":"","limit":9,"keys":["ab"]}]},"decided":{"done":{"writes":{"all":{"gone":null,"k":"v"}}}}}"#
    );
    assert_eq!(read.given.reads["odd"], Some(JsonBytes(Bytes::from_static(b"\xff\x00"))));
    assert_eq!(read.decided, done(&[("k", Some("v")), ("gone", None)]));
}

#[test]
fn the_first_answer_is_kept_and_a_disabled_recorder_keeps_none() {
    let recorder = Recorder::new(100, Arc::default());
    recorder.read("k", None);
    recorder.read("k", Some(&Bytes::from_static(b"later")));
    assert_eq!(recorder.given().reads["k"], None);
    let off = Recorder::default();
    off.read("k", None);
    assert!(off.given().is_empty());
    assert!(off.finish(1, || panic!("nothing is asked")).is_none());
    assert!(
        Recorder::new(100, Arc::default()).finish(1, || None).is_none(),
        "an open delivery has no recording"
    );
}

#[tokio::test]
async fn reads_are_recorded_without_the_calls_own_writes() {
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
    let recorder = Recorder::new(4_096, Arc::default());
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
        [Listed { prefix: "a/".into(), after: String::new(), limit: 9, keys: vec!["a/2".into()] }]
    );
}

#[test]
fn entries_that_do_not_fit_are_left_out_and_marked() {
    let recorder = Recorder::new(300, Arc::default());
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
    let recorder = Recorder::new(300, Arc::default());
    for key in ["a", "b", "c"] {
        recorder.read(key, Some(&Bytes::from(vec![1; 60])));
    }
    let (text, read) = finish(recorder, done(&[])).unwrap();
    assert!(text.len() <= 300 && read.given.incomplete && read.given.reads.is_empty(), "{text}");
    // Not even the decision fits.
    let decided = Decided::Dead { code: "c".repeat(400), retryable: true };
    assert!(finish(Recorder::new(300, Arc::default()), decided).is_none());
}

#[test]
fn different_writes_have_different_digests() {
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

#[test]
fn what_holds_a_secret_is_left_out() {
    let secrets = Secrets([("key".to_owned(), "sk-live-0123456789".to_owned())].into());
    let settings = Arc::new(Settings::new(&BTreeMap::new(), &secrets));
    let notes: [fn(&Recorder); 5] = [
        |recorder| recorder.read("cache/sk-live-0123456789", None),
        |recorder| recorder.read("cache", Some(&Bytes::from_static(b"\"sk-live-0123456789\""))),
        |recorder| recorder.setting("url", Some("https://sk-live-0123456789@bank.example")),
        |recorder| {
            let query = ListQuery { prefix: "sk-live-0123456789/", after: "", limit: 9 };
            recorder.listed(query, &[]);
        },
        |recorder| {
            let query = ListQuery { prefix: "", after: "", limit: 9 };
            recorder.listed(query, &["a".to_owned(), "of/sk-live-0123456789".to_owned()]);
        },
    ];
    for note in notes {
        let recorder = Recorder::new(4_096, Arc::clone(&settings));
        recorder.read("plain", None);
        note(&recorder);
        let (text, read) = finish(recorder, done(&[])).unwrap();
        assert!(!text.contains("sk-live"), "{text}");
        assert!(read.given.incomplete && read.given.reads.contains_key("plain"), "{text}");
    }
}
