//! Replays of native stages, with recordings made by hand.

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::config::Config;
use crate::domain::event::Event;
use crate::stage::handler::{
    Description, Emitted, Failure, Native, NativeContext, NativeError, NativeStage,
};
use crate::stage::recording::{JsonBytes, Listed, RecordedEmit, RecordedEvent, Writes};

/// Asks what its event says: `get:<key>`, `list:<prefix>:<limit>`, `setting:<key>`, `now`,
/// `attempt`, `fail`; answers with an event.
struct Asks;

fn said(text: impl Into<String>) -> Emitted {
    Emitted::new("said", "text/plain", text.into())
}

#[async_trait]
impl NativeStage for Asks {
    fn describe(&self) -> Description {
        Description::new("asks", "2.0.0", "Asks").consumes(["ask"]).emits(["said"])
    }

    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        let question = String::from_utf8_lossy(&event.data).into_owned();
        let parts: Vec<&str> = question.split(':').collect();
        let answer = match parts.as_slice() {
            ["get", key] => {
                cx.state.set("own".into(), "mine".into())?;
                let value = cx.state.get(key).await?;
                value.map_or("nothing".to_owned(), |value| {
                    String::from_utf8_lossy(&value).into_owned()
                })
            }
            ["list", prefix, limit] => {
                cx.state.set("own".into(), "mine".into())?;
                cx.state.list_keys(prefix, "", limit.parse().expect("a number")).await?.join(",")
            }
            ["setting", key] => cx.call.setting(key).unwrap_or("nothing").to_owned(),
            ["now"] => cx.call.now_ms.to_string(),
            ["attempt"] => cx.call.attempt.to_string(),
            _ => {
                let failure = Failure::retry(question.clone(), "");
                return Err(NativeError::Failure(failure));
            }
        };
        Ok(vec![said(answer)])
    }
}

/// A recorded delivery whose event is `question` and whose emitted event is `answer`.
fn recorded(question: &str, answer: &str, wrote_own: bool) -> Recorded {
    let own = ("own".to_owned(), Some(JsonBytes(Bytes::from_static(b"mine"))));
    let given = RecordedInputs {
        settings: BTreeMap::from([
            ("limit".to_owned(), Some("10".to_owned())),
            ("absent".to_owned(), None),
        ]),
        reads: BTreeMap::from([
            ("k".to_owned(), Some(JsonBytes(Bytes::from_static(b"v")))),
            ("none".to_owned(), None),
        ]),
        lists: vec![
            Listed {
                prefix: String::new(),
                after: String::new(),
                limit: 2,
                keys: vec!["a".into(), "z".into()],
            },
            Listed { prefix: "p".into(), after: String::new(), limit: 5, keys: vec!["p1".into()] },
        ],
        incomplete: false,
    };
    let writes = Writes::All(if wrote_own { BTreeMap::from([own]) } else { BTreeMap::new() });
    let emit = RecordedEmit {
        id: "e".into(),
        event_type: "said".into(),
        subject: "7".into(),
        content_type: "text/plain".into(),
        data: JsonBytes(Bytes::copy_from_slice(answer.as_bytes())),
        delay_ms: 0,
        attributes: vec![],
    };
    Recorded {
        stage: "asks".into(),
        subject_key: None,
        event: RecordedEvent {
            id: "1".into(),
            source: "/s".into(),
            event_type: "ask".into(),
            subject: "7".into(),
            time_ms: 1,
            content_type: "text/plain".into(),
            data: JsonBytes(Bytes::copy_from_slice(question.as_bytes())),
            attributes: vec![],
            correlation_id: "1".into(),
            cause: None,
            hops: 0,
        },
        round: 1,
        attempt: 3,
        version: None,
        digest: None,
        host: None,
        settled_at_ms: 5,
        recording: Some(Recording {
            now_ms: 4_711,
            given,
            decided: Decided::Done { writes, delays_ms: vec![] },
        }),
        outcome: Some(RecordedOutcome::Done(vec![emit])),
    }
}

fn replay() -> Replay {
    replay_with(BTreeMap::new())
}

fn replay_with(settings: BTreeMap<String, String>) -> Replay {
    let (handler, config) = (Arc::new(Native::new(Asks)), Config::default());
    let policy = config.stage_policy(&"asks".into(), handler.description());
    Replay::new(handler, policy, config.stage("asks").limits.state_limits(), settings)
}

#[tokio::test]
async fn a_stage_reads_what_was_recorded() {
    for (question, answer, wrote_own) in [
        ("get:k", "v", true),
        ("get:none", "nothing", true),
        ("get:own", "mine", true),
        ("list::2", "a,own", true),
        ("list::1", "a", true),
        ("list:p:100", "p1", true),
        ("setting:limit", "10", false),
        ("setting:absent", "nothing", false),
        ("now", "4711", false),
        ("attempt", "3", false),
    ] {
        assert_eq!(
            replay().run(&recorded(question, answer, wrote_own)).await,
            ReplayVerdict::Equal,
            "{question}"
        );
        let other = replay().run(&recorded(question, "something else", wrote_own)).await;
        assert!(
            matches!(other, ReplayVerdict::Different(ref changes) if changes.len() == 1),
            "{question}: {other:?}"
        );
    }
}

#[tokio::test]
async fn reads_that_were_not_recorded_make_the_verdict_unknown() {
    for (question, missed) in [
        ("get:other", "the state key `other` was not recorded"),
        ("list:q:5", "the list of 5 keys with `q` after `` was not recorded"),
        ("list::3", "the list of 3 keys with `` after `` was not recorded"),
        ("setting:other", "the setting `other` was not recorded"),
    ] {
        let verdict = replay().run(&recorded(question, "nothing", true)).await;
        assert_eq!(verdict, ReplayVerdict::Unknown(missed.to_owned()), "{question}");
    }
    let mut cut = recorded("get:other", "nothing", true);
    cut.recording.as_mut().unwrap().given.incomplete = true;
    let verdict = replay().run(&cut).await;
    assert!(
        matches!(&verdict, ReplayVerdict::Unknown(why) if why.contains("recording.max_bytes")),
        "{verdict:?}"
    );
    // A truncated recording still answers the reads that it contains.
    let mut cut = recorded("get:k", "v", true);
    cut.recording.as_mut().unwrap().given.incomplete = true;
    assert_eq!(replay().run(&cut).await, ReplayVerdict::Equal);
    for hole in [
        Recorded { recording: None, ..recorded("now", "", false) },
        Recorded { outcome: None, ..recorded("now", "", false) },
    ] {
        assert!(matches!(replay().run(&hole).await, ReplayVerdict::Unknown(_)));
    }
}

#[tokio::test]
async fn settings_override_the_recorded_ones() {
    let settings = BTreeMap::from([
        ("limit".to_owned(), "99".to_owned()),
        ("other".to_owned(), "1".to_owned()),
    ]);
    let replay = replay_with(settings);
    assert_eq!(replay.run(&recorded("setting:limit", "99", false)).await, ReplayVerdict::Equal);
    assert_eq!(replay.run(&recorded("setting:other", "1", false)).await, ReplayVerdict::Equal);
}

#[tokio::test]
async fn failures_are_compared_by_code_and_unconsumed_types_are_skipped() {
    let dead_lettered = |question: &str, code: &str| {
        let mut recorded = recorded(question, "", false);
        let recording = recorded.recording.as_mut().unwrap();
        recording.decided = Decided::Dead { code: code.to_owned(), retryable: true };
        recorded.outcome = Some(RecordedOutcome::Dead { code: code.to_owned() });
        recorded
    };
    assert_eq!(
        replay().run(&dead_lettered("bank-closed", "bank-closed")).await,
        ReplayVerdict::Equal
    );
    for other in [
        dead_lettered("bank-closed", "other"),
        dead_lettered("now", "bank-closed"),
        recorded("bank-closed", "", false),
    ] {
        assert!(
            matches!(replay().run(&other).await, ReplayVerdict::Different(ref changes) if changes[0].what == "outcome")
        );
    }
    let mut foreign = recorded("now", "4711", false);
    foreign.event.event_type = "ask.v2".into();
    let ReplayVerdict::Different(changes) = replay().run(&foreign).await else {
        panic!("it does not consume that")
    };
    assert_eq!(changes[0].to, "skipped: the type is not consumed");
}

#[test]
fn a_report_counts_every_event_and_lists_the_first_of_each_verdict() {
    let mut report = ReplayReport::new(2);
    let change = Change { what: "outcome".into(), from: "a".into(), to: "b".into() };
    for number in 0..5 {
        let mut event = recorded("now", "", false);
        event.event.id = number.to_string();
        report.note(&event, ReplayVerdict::Equal);
        report.note(&event, ReplayVerdict::Different(vec![change.clone()]));
        report.note(&event, ReplayVerdict::Unknown("a key".into()));
        report.note(&event, ReplayVerdict::Failed("no instance".into()));
    }
    let counts = [report.equal, report.different, report.unknown, report.failed, report.count()];
    assert_eq!(counts, [5, 5, 5, 5, 20]);
    let listed: Vec<&str> = report.differences.iter().map(|entry| &*entry.event.id).collect();
    assert_eq!(listed, ["0", "1"]);
    assert_eq!((report.unknowns.len(), report.failures.len()), (2, 2));
}
