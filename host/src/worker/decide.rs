//! The middle of the pipeline: what to do with an outcome. Pure: no I/O, no clock, no randomness of
//! its own.
//!
//! `(stage, envelope, delivery, outcome, moment) → verdict`. Everything a delivery can come to is
//! decided here, so that retries, deaths and expiry behave the same on every broker and store.

use std::sync::Arc;

use crate::pipeline::routes::Routes;
use crate::stage::policy::StagePolicy;

use crate::domain::cloud_events::is_json;
use crate::domain::event::{
    DEAD_LETTERED, DeliveryKey, Envelope, Event, HOST_EVENT_PREFIX, dead_letter_event_id,
    emitted_id, topic_matches, without_nul,
};
use crate::domain::trace_context::TraceContext;
use crate::stage::handler::{Emitted, Outcome};
use crate::store::{FailedAttempt, NewEvent, Verdict};

/// The delivery under decision, and the try that was made.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which.
    pub delivery: DeliveryKey,
    /// Replays so far, from 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Digest that ran.
    pub digest: Arc<str>,
    /// Time it took.
    pub duration_us: u64,
}

/// Now, and a random number in `[0, 1)` for jitter.
#[derive(Debug, Clone, Copy)]
pub struct DecisionTime {
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// In `[0, 1)`.
    pub random: f64,
}

/// What is settled without running the stage: an expired event dies, one that this version no
/// longer consumes is skipped.
pub fn before_running(
    stage: &StagePolicy,
    routes: &dyn Routes,
    envelope: &Envelope,
    tried: &Attempt,
    (moment, expires_at_ms): (DecisionTime, u64),
) -> Option<Verdict> {
    if expires_at_ms <= moment.now_ms {
        let message = format!("expired {} ms ago", moment.now_ms - expires_at_ms);
        return Some(death(stage, routes, envelope, tried, moment, "expired", message));
    }
    let consumed =
        stage.consumes.iter().any(|pattern| topic_matches(pattern, &envelope.event.event_type));
    (!consumed).then_some(Verdict::Skipped)
}

/// What a try comes to.
pub fn decide(
    stage: &StagePolicy,
    routes: &dyn Routes,
    envelope: &Envelope,
    tried: &Attempt,
    outcome: Outcome,
    moment: DecisionTime,
) -> (Verdict, Option<FailedAttempt>) {
    let (code, message, backtrace, retry) = match outcome {
        Outcome::Done(emitted) => match refuse(stage, envelope, &emitted) {
            None => {
                let events = advance(stage, routes, envelope, tried, emitted, moment);
                match events.iter().find_map(|new| {
                    Some((&new.envelope.event.event_type, new.envelope.validate()?))
                }) {
                    None => return (Verdict::Done(events), None),
                    Some((event_type, why)) => (
                        "invalid-event".to_owned(),
                        format!("emitted `{event_type}` with {why}"),
                        None,
                        None,
                    ),
                }
            }
            Some((code, message)) => (code.to_owned(), message, None, None),
        },
        Outcome::Failed(failure) => {
            let retry = failure.retryable.then(|| u64::from(failure.retry_after_ms.unwrap_or(0)));
            (failure.code, failure.message, None, retry)
        }
        Outcome::Trapped { kind, message, backtrace } => {
            (format!("trap:{kind}"), message, backtrace, Some(0))
        }
        Outcome::LimitExceeded { limit, message } => (limit.code().to_owned(), message, None, None),
        Outcome::Unavailable(_) => {
            return (Verdict::Deferred { due_at_ms: moment.now_ms + DEFER_MS }, None);
        }
    };
    // What a guest says about itself may hold anything.
    let code = bounded(code, CODE_MAX_BYTES);
    let (message, backtrace) = (
        bounded(message, MESSAGE_MAX_BYTES),
        backtrace.map(|text| bounded(text, MESSAGE_MAX_BYTES)),
    );
    let failure = FailedAttempt {
        round: tried.round,
        attempt: tried.attempt,
        code: code.clone(),
        message: message.clone(),
        backtrace,
        digest: tried.digest.to_string(),
        duration_us: tried.duration_us,
        at_ms: moment.now_ms,
    };
    let verdict = match retry {
        Some(at_least_ms) if tried.attempt < stage.retry.max_attempts => {
            let wait_ms = stage.retry.wait_ms(tried.attempt, moment.random).max(at_least_ms);
            Verdict::Retry { due_at_ms: moment.now_ms + wait_ms }
        }
        _ => death(stage, routes, envelope, tried, moment, &code, message),
    };
    (verdict, Some(failure))
}

/// A message that the host could not serve comes back after this long, the same attempt again.
const DEFER_MS: u64 = 1_000;

/// Longest code of a failure: dead letters are indexed by it.
const CODE_MAX_BYTES: usize = 200;
/// Longest message and longest backtrace of a failure: the message goes on in an event.
const MESSAGE_MAX_BYTES: usize = 64 << 10;

/// A guest's text as every store takes it, cut off where it is too long.
fn bounded(text: String, max_bytes: usize) -> String {
    let mut text = without_nul(text);
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// Why a list of emitted events may not leave, if it may not.
fn refuse(
    stage: &StagePolicy,
    envelope: &Envelope,
    emitted: &[Emitted],
) -> Option<(&'static str, String)> {
    if let Some(event) = emitted.iter().find(|event| !stage.emits.contains(&event.event_type)) {
        let declared = stage.emits.join(", ");
        return Some((
            "undeclared-event",
            format!("emitted `{}`, but `describe` declares only: {declared}", event.event_type),
        ));
    }
    if let Some(event) =
        emitted.iter().find(|event| event.event_type.starts_with(HOST_EVENT_PREFIX))
    {
        return Some((
            "reserved-event",
            format!(
                "emitted `{}`: types that start with `{HOST_EVENT_PREFIX}` are the host's",
                event.event_type
            ),
        ));
    }
    if let Some((event, error)) = emitted.iter().find_map(|event| Some((event, json_error(event)?)))
    {
        return Some((
            "invalid-event",
            format!(
                "emitted `{}` with data that is not the JSON it says it is: {error}",
                event.event_type
            ),
        ));
    }
    (!emitted.is_empty() && envelope.hops >= stage.hops_max).then(|| {
        (
            "hop-limit",
            format!(
                "the chain of events is {} stages long; the limit is {}",
                envelope.hops, stage.hops_max
            ),
        )
    })
}

/// What is wrong with data that is said to be JSON: the next stages would stumble over it, far from
/// its cause.
fn json_error(event: &Emitted) -> Option<serde_json::Error> {
    is_json(&event.content_type)
        .then(|| serde_json::from_slice::<serde::de::IgnoredAny>(&event.data).err())
        .flatten()
}

fn advance(
    stage: &StagePolicy,
    routes: &dyn Routes,
    cause: &Envelope,
    tried: &Attempt,
    emitted: Vec<Emitted>,
    moment: DecisionTime,
) -> Vec<NewEvent> {
    let build = |(position, emitted): (usize, Emitted)| {
        let due_at_ms = moment.now_ms + u64::from(emitted.delay_ms);
        let event = Event {
            id: emitted_id(&tried.delivery, position),
            event_type: emitted.event_type,
            source: stage.source.clone(),
            subject: emitted.subject.unwrap_or_else(|| cause.event.subject.clone()),
            time_ms: moment.now_ms,
            content_type: emitted.content_type,
            data: emitted.data,
            attributes: emitted.attributes,
        };
        follow(stage, routes, cause, event, tried, due_at_ms)
    };
    emitted.into_iter().enumerate().map(build).collect()
}

fn death(
    stage: &StagePolicy,
    routes: &dyn Routes,
    envelope: &Envelope,
    tried: &Attempt,
    moment: DecisionTime,
    code: &str,
    message: String,
) -> Verdict {
    let data = serde_json::json!({
        "stage": &*stage.name,
        "code": code,
        "message": message,
        "event": { "source": envelope.event.source, "id": envelope.event.id, "type": envelope.event.event_type },
        "attempts": tried.attempt,
    });
    let event = Event {
        id: dead_letter_event_id(&tried.delivery, tried.round),
        event_type: DEAD_LETTERED.to_owned(),
        source: stage.source.clone(),
        subject: envelope.event.subject.clone(),
        time_ms: moment.now_ms,
        content_type: "application/json".to_owned(),
        data: data.to_string().into(),
        attributes: vec![("stage".to_owned(), stage.name.to_string())],
    };
    let announcement = follow(stage, routes, envelope, event, tried, moment.now_ms);
    Verdict::Dead { code: code.to_owned(), message, announcement }
}

/// An event caused by another one, with its routes and its place in the trace.
fn follow(
    stage: &StagePolicy,
    routes: &dyn Routes,
    cause: &Envelope,
    mut event: Event,
    tried: &Attempt,
    due_at_ms: u64,
) -> NewEvent {
    TraceContext::of_try(&cause.event, &tried.delivery, tried.round, tried.attempt)
        .mark(&mut event.attributes);
    let routed_to = routes.stages_for(&event.event_type);
    let envelope = Envelope::caused_by(cause, event, due_at_ms + stage.expiry_ms);
    NewEvent::new(envelope, due_at_ms, routed_to)
        .produced_by(Arc::clone(&stage.name), Arc::clone(&tried.digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKey;
    use crate::stage::handler::{Failure, Limit};
    use crate::stage::policy::RetryPolicy;

    struct To(&'static str);
    impl Routes for To {
        fn stages_for(&self, _: &str) -> Vec<Arc<str>> {
            vec![self.0.into()]
        }
    }

    fn stage() -> StagePolicy {
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
            expiry_ms: 10_000,
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
            event,
            order_id: Some("123".into()),
            correlation_id: "e1".into(),
            cause: None,
            hops: 0,
            expires_at_ms: 5_000,
        }
    }

    fn tried(attempt: u32) -> Attempt {
        let delivery = DeliveryKey {
            stage: "payment".into(),
            event: EventKey { source: "/orders/api".into(), id: "e1".into() },
        };
        Attempt { delivery, round: 1, attempt, digest: "d".into(), duration_us: 7 }
    }

    const NOW: DecisionTime = DecisionTime { now_ms: 1_000, random: 0.0 };

    fn run(attempt: u32, outcome: Outcome) -> (Verdict, Option<FailedAttempt>) {
        decide(&stage(), &To("inventory"), &envelope(), &tried(attempt), outcome, NOW)
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
    fn done_advances_with_a_repeatable_id_and_inherits_the_story() {
        let (Verdict::Done(events), None) =
            run(1, Outcome::Done(vec![emitted("payment.authorized")]))
        else {
            panic!("not done")
        };
        let next = &events[0];
        assert_eq!(next.due_at_ms, 1_050);
        assert_eq!(next.envelope.expires_at_ms, 11_050);
        assert_eq!(next.envelope.hops, 1);
        assert_eq!(next.envelope.order_id.as_deref(), Some("123"));
        assert_eq!(next.envelope.event.id, emitted_id(&tried(2).delivery, 0));
        assert_eq!(next.routed_to, ["inventory".into()]);
    }

    #[test]
    fn a_retryable_failure_waits_longer_each_time_and_dies_at_the_limit() {
        for (attempt, due) in [(1, 1_100), (2, 1_200)] {
            let (verdict, failure) = run(attempt, failed(true, None));
            assert!(
                matches!(verdict, Verdict::Retry { due_at_ms } if due_at_ms == due),
                "attempt {attempt}: {verdict:?}"
            );
            assert_eq!(failure.unwrap().code, "gateway-timeout");
        }
        let (verdict, failure) = run(3, failed(true, None));
        assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "gateway-timeout"));
        assert!(failure.is_some());
    }

    #[test]
    fn the_plugins_own_wait_is_a_minimum() {
        assert!(matches!(run(1, failed(true, Some(700))).0, Verdict::Retry { due_at_ms: 1_700 }));
        assert!(matches!(run(1, failed(true, Some(7))).0, Verdict::Retry { due_at_ms: 1_100 }));
    }

    #[test]
    fn what_no_retry_can_mend_dies_at_once() {
        let limit = Outcome::LimitExceeded { limit: Limit::StateKey, message: "1 MB".into() };
        for (outcome, expected) in [
            (failed(false, None), "gateway-timeout"),
            (limit, "limit:state-key"),
            (Outcome::Done(vec![emitted("payment.stolen")]), "undeclared-event"),
        ] {
            let (Verdict::Dead { code, announcement, .. }, Some(_)) = run(1, outcome) else {
                panic!("not dead")
            };
            assert_eq!(code, expected);
            assert_eq!(announcement.envelope.event.event_type, DEAD_LETTERED);
        }
    }

    #[test]
    fn a_trap_is_an_attempt_and_an_outage_is_none() {
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
        let (verdict, _) = decide(&stage(), &To("inventory"), &long, &tried(1), outcome, NOW);
        assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "hop-limit"));
    }

    #[test]
    fn text_that_no_store_takes_is_the_guests_fault() {
        let odd = Emitted { subject: Some("a\0b".into()), ..emitted("payment.authorized") };
        let (verdict, _) = decide(
            &stage(),
            &To("inventory"),
            &envelope(),
            &tried(1),
            Outcome::Done(vec![odd]),
            NOW,
        );
        assert!(matches!(verdict, Verdict::Dead { code, .. } if code == "invalid-event"));
        let forged = Emitted {
            attributes: vec![("type".into(), "order.cancelled".into())],
            ..emitted("payment.authorized")
        };
        let (verdict, _) = decide(
            &stage(),
            &To("inventory"),
            &envelope(),
            &tried(1),
            Outcome::Done(vec![forged]),
            NOW,
        );
        assert!(
            matches!(verdict, Verdict::Dead { code, message, .. } if code == "invalid-event" && message.contains("`type`"))
        );
        let failure = Failure::reject("c\0", "m\0");
        let (_, failed) =
            decide(&stage(), &To("x"), &envelope(), &tried(1), Outcome::Failed(failure), NOW);
        let failed = failed.unwrap();
        assert_eq!((failed.code.as_str(), failed.message.as_str()), ("c\u{fffd}", "m\u{fffd}"));
    }

    #[test]
    fn data_that_is_not_the_json_it_says_it_is_does_not_leave() {
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
            let died = matches!(&verdict, Verdict::Dead { code, message, .. } if code == "invalid-event" && message.contains("JSON"));
            assert_eq!(died, refused, "{content_type}: {verdict:?}");
        }
    }

    #[test]
    fn what_a_guest_says_about_its_failure_is_cut_off() {
        let failure = Failure::reject("c".repeat(201), "€".repeat(1 << 20));
        let (verdict, failed) =
            decide(&stage(), &To("x"), &envelope(), &tried(1), Outcome::Failed(failure), NOW);
        let failed = failed.unwrap();
        assert_eq!((failed.code.len(), failed.code.ends_with("c…")), (200, true));
        assert!(
            (65_530..=65_536).contains(&failed.message.len()) && failed.message.ends_with("€…")
        );
        assert!(
            matches!(verdict, Verdict::Dead { announcement, .. } if announcement.envelope.event.data.len() < 70_000)
        );
    }

    #[test]
    fn the_longest_chain_there_is_ends_too() {
        let longest = Envelope { hops: u32::MAX, ..envelope() };
        let outcome = Outcome::Done(vec![emitted("payment.authorized")]);
        let (verdict, _) = decide(&stage(), &To("inventory"), &longest, &tried(1), outcome, NOW);
        assert!(
            matches!(verdict, Verdict::Dead { announcement, .. } if announcement.envelope.hops == u32::MAX)
        );
    }

    #[test]
    fn expired_events_die_and_foreign_types_are_skipped_without_running() {
        let late = DecisionTime { now_ms: 6_000, random: 0.0 };
        let verdict = before_running(
            &stage(),
            &To("x"),
            &envelope(),
            &tried(1),
            (late, envelope().expires_at_ms),
        );
        assert!(matches!(verdict, Some(Verdict::Dead { code, .. }) if code == "expired"));
        let mut foreign = envelope();
        foreign.event.event_type = "order.archived".into();
        assert!(matches!(
            before_running(&stage(), &To("x"), &foreign, &tried(1), (NOW, foreign.expires_at_ms)),
            Some(Verdict::Skipped)
        ));
        assert!(
            before_running(
                &stage(),
                &To("x"),
                &envelope(),
                &tried(1),
                (NOW, envelope().expires_at_ms)
            )
            .is_none()
        );
    }

    #[test]
    fn jitter_only_shortens_and_the_wait_is_capped() {
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
}
