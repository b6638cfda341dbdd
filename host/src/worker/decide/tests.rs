//! What [`decide`] decides, one kind of input after another.

use super::*;
use crate::domain::event::{DeliveryKey, EventKey, emitted_id};
use crate::pipeline::chains::ChainStatus;
use crate::pipeline::routes::Routes;
use crate::stage::outcome::{Emitted, Failure, Limit};
use crate::stage::policy::{RetryPolicy, StagePolicy};

/// Routes every type to one stage.
struct To(&'static str);
impl Routes for To {
    fn stages_for(&self, _: &str) -> Vec<Arc<str>> {
        vec![self.0.into()]
    }
}

fn policy() -> StagePolicy {
    StagePolicy {
        name: "payment".into(),
        source: "/orders/stages/payment".into(),
        consumes: vec!["order.created".into()],
        emits: vec!["payment.authorized".into()],
        retry: RetryPolicy {
            max_attempts: 3,
            initial_ms: 100,
            max_ms: 1_000,
            multiplier: 2.0,
            jitter: 0.0,
        },
        hops_max: 64,
        chain_events_max: 1_000,
        expiry_ms: 10_000,
        delay_max_ms: 60_000,
    }
}

fn envelope() -> Envelope {
    let event = Event {
        id: "e1".into(),
        event_type: "order.created".into(),
        source: "/orders/api".into(),
        subject: "123".into(),
        time_ms: 0,
        content_type: "application/json".into(),
        data: "{}".into(),
        attributes: vec![],
    };
    Envelope {
        data_key: None,
        event,
        subject_key: "order/123".parse().ok(),
        customer_hash: 7,
        correlation_id: "e1".into(),
        cause: None,
        hops: 0,
        expires_at_ms: 5_000,
    }
}

fn attempt(number: u32) -> Attempt {
    let delivery = DeliveryKey {
        stage: "payment".into(),
        event: EventKey { source: "/orders/api".into(), id: "e1".into() },
    };
    let mut attempt = Attempt::new(delivery, 1, number, "d".into());
    (attempt.host, attempt.duration_us) = (Some("here".into()), 7);
    attempt
}

const NOW_MS: u64 = 1_000;

/// Decides about `envelope` at [`NOW_MS`].
fn decide_on(envelope: &Envelope, number: u32, progress: Progress<'_>) -> Decision {
    decide_in(ChainStatus::default(), envelope, number, progress)
}

/// Decides about `envelope`, whose chain has this status.
fn decide_in(
    chain: ChainStatus,
    envelope: &Envelope,
    number: u32,
    progress: Progress<'_>,
) -> Decision {
    decide(DecisionInputs {
        chain,
        policy: &policy(),
        routes: &To("inventory"),
        envelope,
        attempt: &attempt(number),
        subject_cancelled: false,
        expires_at_ms: envelope.expires_at_ms,
        progress,
        now_ms: NOW_MS,
        random: 0.0,
    })
}

fn settled(decision: Decision) -> (Verdict, Option<FailedAttempt>) {
    let Decision::Settle(Ruling { verdict, failure }) = decision else { panic!("not settled") };
    (verdict, failure)
}

fn called(outcome: Outcome) -> Progress<'static> {
    Progress::Called { outcome, uncounted: false }
}

/// The verdict on an outcome of an attempt.
fn run(number: u32, outcome: Outcome) -> (Verdict, Option<FailedAttempt>) {
    settled(decide_on(&envelope(), number, called(outcome)))
}

fn rejected(rejection: Rejection<'_>) -> Decision {
    decide_on(&envelope(), 3, Progress::Rejected(rejection))
}

fn emitted(event_type: &str) -> Emitted {
    Emitted {
        event_type: event_type.into(),
        content_type: "application/json".into(),
        data: "1".into(),
        subject: None,
        delay_ms: 50,
        attributes: vec![],
    }
}

fn failed(retryable: bool, retry_after_ms: Option<u32>) -> Outcome {
    Outcome::Failed(Failure {
        retryable,
        code: "gateway-timeout".into(),
        message: "slow".into(),
        retry_after_ms,
    })
}

#[test]
fn emitted_events_have_repeatable_ids_and_inherit_the_chain() {
    let (Verdict::Done(events), None) = run(1, Outcome::Done(vec![emitted("payment.authorized")]))
    else {
        panic!("not done")
    };
    let next = &events[0];
    assert_eq!(next.due_at_ms, 1_050);
    assert_eq!(next.envelope.expires_at_ms, 11_050);
    assert_eq!(next.envelope.hops, 1);
    assert_eq!(next.envelope.subject_key.as_deref(), Some("order/123"));
    assert_eq!(next.envelope.event.id, emitted_id(&attempt(2).delivery, 0, 0));
    assert_eq!(next.routed_to, ["inventory".into()]);
}

#[test]
fn retries_wait_longer_and_stop_after_max_attempts() {
    for (number, due) in [(1, 1_100), (2, 1_200)] {
        let (verdict, failure) = run(number, failed(true, None));
        assert!(
            matches!(verdict, Verdict::Retry { due_at_ms } if due_at_ms == due),
            "attempt {number}: {verdict:?}"
        );
        assert_eq!(failure.unwrap().code, "gateway-timeout");
    }
    let (verdict, failure) = run(3, failed(true, None));
    assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "gateway-timeout"));
    assert!(failure.is_some());
}

#[test]
fn the_wait_that_a_plugin_asks_for_is_a_minimum() {
    assert!(matches!(run(1, failed(true, Some(700))).0, Verdict::Retry { due_at_ms: 1_700 }));
    assert!(matches!(run(1, failed(true, Some(7))).0, Verdict::Retry { due_at_ms: 1_100 }));
}

#[test]
fn a_failed_attempt_has_the_version_and_the_host_that_made_it() {
    let (_, failure) = run(1, failed(true, None));
    let failure = failure.expect("an attempt");
    assert_eq!((failure.digest.as_str(), failure.host.as_deref()), ("d", Some("here")));
}

#[test]
fn errors_that_no_retry_resolves_are_dead_lettered() {
    let limit = Outcome::LimitExceeded { limit: Limit::StateKey, message: "1 MB".into() };
    for (outcome, expected) in [
        (failed(false, None), "gateway-timeout"),
        (limit, "limit:state-key"),
        (Outcome::Done(vec![emitted("payment.stolen")]), "undeclared-event"),
        (
            Outcome::Done(vec![Emitted { delay_ms: u32::MAX, ..emitted("payment.authorized") }]),
            "invalid-event",
        ),
    ] {
        let (Verdict::Dead { code, announcement, .. }, Some(_)) = run(1, outcome) else {
            panic!("not dead-lettered")
        };
        assert_eq!(code, expected);
        assert_eq!(announcement.envelope.event.event_type, DEAD_LETTERED);
        let told: serde_json::Value =
            serde_json::from_slice(&announcement.envelope.event.data).unwrap();
        assert_eq!(told["subject"], serde_json::json!({ "kind": "order", "id": "123" }));
    }
}

#[test]
fn a_trap_counts_as_an_attempt_and_an_outage_does_not() {
    let trap =
        Outcome::Trapped { kind: "timeout".into(), message: "1000 ms".into(), backtrace: None };
    let (verdict, failure) = run(1, trap);
    assert!(matches!(verdict, Verdict::Retry { .. }));
    assert_eq!(failure.unwrap().code, "trap:timeout");
    let (verdict, failure) = run(3, Outcome::Unavailable("store lost".into()));
    assert!(matches!(verdict, Verdict::Deferred { .. }));
    assert!(failure.is_none());
}

#[test]
fn a_cycle_ends_at_the_hop_limit() {
    let long = Envelope { hops: 64, ..envelope() };
    let outcome = Outcome::Done(vec![emitted("payment.authorized")]);
    let (verdict, _) = settled(decide_on(&long, 1, called(outcome)));
    assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "hop-limit"));
}

/// A running chain that had this many events before.
fn chain_of(events: u64) -> ChainStatus {
    ChainStatus { events, stopped: false }
}

#[test]
fn a_chain_ends_at_its_limit_of_events() {
    let max = policy().chain_events_max;
    for (before, emits, refused) in [
        (0, 1, false),
        (max - 2, 2, false),
        (max - 1, 2, true),
        (max, 1, true),
        (max + 500, 1, true),
        (u64::MAX, 3, true),
        // A stage that emits nothing runs whatever its chain did before.
        (max, 0, false),
        (u64::MAX, 0, false),
    ] {
        let outcome = Outcome::Done(vec![emitted("payment.authorized"); emits]);
        let (verdict, failure) =
            settled(decide_in(chain_of(before), &envelope(), 1, called(outcome)));
        let case = format!("{emits} after {before}: {verdict:?}");
        match verdict {
            Verdict::Done(events) => assert_eq!((refused, events.len()), (false, emits), "{case}"),
            Verdict::Dead { code, message, .. } => {
                assert!(refused && code == "chain-limit" && failure.is_some(), "{case}");
                for part in [&before.to_string(), "`e1`", "1000", "events.chain_events_max"] {
                    assert!(message.contains(part), "{part}: {message}");
                }
            }
            _ => panic!("{case}"),
        }
    }
}

#[test]
fn dead_letters_past_a_limit_of_the_chain_are_logged_and_not_sent() {
    let (max, hops_max) = (policy().chain_events_max, policy().hops_max);
    for (events, hops, sent) in [
        (0, 0, true),
        // The first dead letter at a limit is announced.
        (max, 0, true),
        (max + 1, 0, false),
        (0, hops_max, true),
        (0, hops_max + 1, false),
    ] {
        let envelope = Envelope { hops, ..envelope() };
        for progress in
            [called(failed(false, None)), Progress::Rejected(Rejection::Queue("maxlen"))]
        {
            let (verdict, _) = settled(decide_in(chain_of(events), &envelope, 3, progress));
            let Verdict::Dead { announcement, .. } = verdict else { panic!("not dead-lettered") };
            assert_eq!(announcement.only_logged, !sent, "{events} events, {hops} hops");
            assert_eq!(announcement.routed_to.is_empty(), !sent, "{events} events, {hops} hops");
        }
    }
}

#[test]
fn a_delivery_of_a_stopped_chain_is_skipped_however_far_it_has_come() {
    let stopped = ChainStatus { events: 3, stopped: true };
    let done = Outcome::Done(vec![emitted("payment.authorized")]);
    for progress in [
        Progress::NotCalled,
        called(done),
        called(failed(true, None)),
        Progress::Rejected(Rejection::DeliveryLimit(IsolatedRun::Abandoned)),
        Progress::Refused { code: "22P05", message: "no" },
    ] {
        let decision = decide_in(stopped, &envelope(), 1, progress);
        assert!(matches!(settled(decision), (Verdict::Skipped, None)));
    }
}

#[test]
fn text_that_no_store_accepts_is_an_invalid_event() {
    let odd = Emitted { subject: Some("a\0b".into()), ..emitted("payment.authorized") };
    let (verdict, _) = run(1, Outcome::Done(vec![odd]));
    assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "invalid-event"));
    let forged = Emitted {
        attributes: vec![("type".into(), "order.cancelled".into())],
        ..emitted("payment.authorized")
    };
    let (verdict, _) = run(1, Outcome::Done(vec![forged]));
    assert!(
        matches!(verdict, Verdict::Dead { code, message, .. } if code == "invalid-event" && message.contains("`type`"))
    );
    let failure = Failure::reject("c\0", "m\0");
    let (_, failed) = run(1, Outcome::Failed(failure));
    let failed = failed.unwrap();
    assert_eq!((failed.code.as_str(), failed.message.as_str()), ("c\u{fffd}", "m\u{fffd}"));
}

#[test]
fn data_that_claims_to_be_json_must_be_valid_json() {
    for (content_type, refused) in [
        ("application/json", true),
        ("application/json; charset=utf-8", true),
        ("application/cloudevents+json", true),
        ("text/plain", false),
    ] {
        let broken = Emitted {
            data: "{\"a\": ".into(),
            content_type: content_type.into(),
            ..emitted("payment.authorized")
        };
        let (verdict, _) = run(1, Outcome::Done(vec![broken]));
        let invalid = matches!(&verdict, Verdict::Dead { code, message, .. } if code == "invalid-event" && message.contains("JSON"));
        assert_eq!(invalid, refused, "{content_type}: {verdict:?}");
    }
}

#[test]
fn texts_of_a_failure_are_truncated() {
    let failure = Failure::reject("c".repeat(201), "€".repeat(1 << 20));
    let (verdict, failed) = run(1, Outcome::Failed(failure));
    let failed = failed.unwrap();
    assert_eq!((failed.code.len(), failed.code.ends_with("c…")), (200, true));
    assert!((65_530..=65_536).contains(&failed.message.len()) && failed.message.ends_with("€…"));
    assert!(
        matches!(verdict, Verdict::Dead { announcement, .. } if announcement.envelope.event.data.len() < 70_000)
    );
}

#[test]
fn the_hop_count_saturates() {
    let longest = Envelope { hops: u32::MAX, ..envelope() };
    let outcome = Outcome::Done(vec![emitted("payment.authorized")]);
    let (verdict, _) = settled(decide_on(&longest, 1, called(outcome)));
    assert!(
        matches!(verdict, Verdict::Dead { announcement, .. } if announcement.envelope.hops == u32::MAX && announcement.only_logged)
    );
}

#[test]
fn a_current_event_that_the_stage_consumes_is_called() {
    let decision = decide_on(&envelope(), 1, Progress::NotCalled);
    assert!(matches!(decision, Decision::Call), "{decision:?}");
}

#[test]
fn an_expired_event_is_dead_lettered_without_an_attempt() {
    let late = Envelope { expires_at_ms: NOW_MS, ..envelope() };
    let (verdict, failure) = settled(decide_on(&late, 1, Progress::NotCalled));
    assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "expired"));
    assert!(failure.is_none());
}

#[test]
fn a_type_that_the_stage_does_not_consume_is_skipped() {
    let mut foreign = envelope();
    foreign.event.event_type = "order.archived".into();
    let decision = decide_on(&foreign, 1, Progress::NotCalled);
    assert!(matches!(settled(decision), (Verdict::Skipped, None)));
}

#[test]
fn a_delivery_of_a_cancelled_subject_is_skipped_however_far_it_has_come() {
    let limit = Rejection::DeliveryLimit(IsolatedRun::Abandoned);
    for progress in [Progress::NotCalled, called(failed(false, None)), Progress::Rejected(limit)] {
        let decision = decide(DecisionInputs {
            policy: &policy(),
            routes: &To("inventory"),
            // Expired, too.
            envelope: &Envelope { expires_at_ms: 0, ..envelope() },
            attempt: &attempt(3),
            subject_cancelled: true,
            chain: ChainStatus::default(),
            expires_at_ms: 0,
            progress,
            now_ms: NOW_MS,
            random: 0.0,
        });
        assert!(matches!(settled(decision), (Verdict::Skipped, None)));
    }
}

#[test]
fn a_failure_that_does_not_count_defers_its_message() {
    let probe = |outcome| {
        let progress = Progress::Called { outcome, uncounted: true };
        settled(decide_on(&envelope(), 3, progress))
    };
    let timeout =
        Outcome::Trapped { kind: "timeout".into(), message: "1000 ms".into(), backtrace: None };
    for failing in [failed(true, None), timeout] {
        let (verdict, failure) = probe(failing);
        assert!(matches!(verdict, Verdict::Deferred { due_at_ms: 1_500 }), "{verdict:?}");
        assert!(failure.is_none());
    }
    // The dependency answered: the outcome counts.
    let (verdict, failure) = probe(failed(false, None));
    assert!(matches!(verdict, Verdict::Dead { .. }) && failure.is_some());
    assert!(matches!(probe(Outcome::Done(vec![])).0, Verdict::Done(_)));
}

#[test]
fn a_rejected_message_is_dead_lettered_with_the_reason() {
    for (rejection, expected, text) in [
        (Rejection::Unreadable("no id"), "unreadable", "no id"),
        (Rejection::Forged("no signature"), "forged", "no signature"),
        (Rejection::Queue("max_len"), "max-len", "max_len"),
        (Rejection::DeliveryLimit(IsolatedRun::Abandoned), "delivery-limit", "isolated"),
    ] {
        let (Verdict::Dead { code, message, .. }, Some(failure)) = settled(rejected(rejection))
        else {
            panic!("not dead-lettered")
        };
        assert_eq!((code.as_str(), failure.attempt), (expected, 3));
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn an_isolated_run_is_recorded_before_it_begins() {
    let record = |unconfirmed| {
        let run = IsolatedRun::NotRecorded { host: "here", unconfirmed };
        let (Verdict::Retry { due_at_ms }, Some(failure)) =
            settled(rejected(Rejection::DeliveryLimit(run)))
        else {
            panic!("no retry")
        };
        assert_eq!(due_at_ms, failure.at_ms + ISOLATED_RUN_TIMEOUT_MS);
        failure
    };
    let first = record(None);
    assert!(records_isolated_run(&first, 1, 3) && first.message.contains("here"));
    // Written again, it is the same: an earlier commit of it may still take effect.
    let earlier = FailedAttempt { at_ms: 7, digest: "old".into(), ..first };
    assert_eq!(record(Some(&earlier)), earlier);
    let next = rejected(Rejection::DeliveryLimit(IsolatedRun::NotBegun));
    assert!(matches!(next, Decision::Call));
}

#[test]
fn jitter_shortens_the_wait_and_max_ms_caps_it() {
    let policy = RetryPolicy {
        max_attempts: 99,
        initial_ms: 100,
        max_ms: 1_000,
        multiplier: 2.0,
        jitter: 0.5,
    };
    assert_eq!(policy.wait_ms(1, 0.0), 100);
    assert_eq!(policy.wait_ms(1, 0.999), 50);
    assert_eq!(policy.wait_ms(90, 0.0), 1_000);
}
