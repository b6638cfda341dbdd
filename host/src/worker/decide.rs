//! The one decision: what happens next to a delivery. Pure: no I/O, no clock, no randomness of its
//! own.
//!
//! [`decide`] receives everything that affects a verdict as named [`DecisionInputs`], so retries,
//! dead-lettering and expiry behave the same on every broker and store. Nothing else in the host
//! makes a [`Verdict`]: a [`Ruling`] is built in this file only, and workers obtain a
//! [`Settlement`] from a ruling.

mod emitted;
mod inputs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::inputs::{Attempt, DecisionInputs, IsolatedRun, Progress, Rejection};
use crate::domain::encryption::{ERASED, unreadable};
use crate::domain::event::{
    DEAD_LETTERED, DeliveryKey, Envelope, Event, EventKey, dead_letter_event_id, topic_matches,
    without_nul,
};
use crate::stage::outcome::Outcome;
use crate::store::{FailedAttempt, NewEvent, OpenDelivery, Settlement, Verdict};

/// The same attempt returns after this long when the host could not serve it.
const UNAVAILABLE_DEFER_MS: u64 = 1_000;
/// The same attempt returns after this long when its failure does not count.
const UNCOUNTED_DEFER_MS: u64 = 500;
/// An isolated run that no host finishes is repeated after this long, unless the broker redelivers
/// the message first.
const ISOLATED_RUN_TIMEOUT_MS: u64 = 60_000;
/// Code of an attempt, or a dead letter, of a message that exceeded the broker's delivery limit.
const DELIVERY_LIMIT_CODE: &str = "delivery-limit";
/// Longest code of a failure: dead letters are indexed by it.
const CODE_MAX_BYTES: usize = 200;
/// Longest message and longest backtrace of a failure: an event carries the message on.
const MESSAGE_MAX_BYTES: usize = 64 << 10;

/// What to do next with a delivery.
#[must_use]
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a decision is consumed where it is made; a box would cost an allocation per message"
)]
pub enum Decision {
    /// Call the stage, then decide about the outcome.
    Call,
    /// Settle the delivery like this, without a further call.
    Settle(Ruling),
}

/// A verdict with the failed attempt that led to it. Only [`decide`] makes one.
#[must_use]
#[derive(Debug)]
pub struct Ruling {
    verdict: Verdict,
    failure: Option<FailedAttempt>,
}

impl Ruling {
    /// What becomes of the delivery.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The failed attempt, if the attempt counts as one.
    pub fn failure(&self) -> Option<&FailedAttempt> {
        self.failure.as_ref()
    }

    /// The verdict alone, for a replay that settles nothing.
    pub fn into_verdict(self) -> Verdict {
        self.verdict
    }

    /// The delivery's part of a batch: this ruling on an attempt by the plugin `version`.
    pub fn into_settlement(
        self,
        attempt: Attempt,
        envelope: Arc<Envelope>,
        version: String,
        recording: Option<String>,
    ) -> Settlement {
        let Self { verdict, failure } = self;
        let Attempt { delivery, round, attempt, digest, host, duration_us, .. } = attempt;
        Settlement {
            delivery,
            envelope,
            scheduled_ms: None,
            round,
            attempt,
            verdict,
            version,
            digest,
            host,
            duration_us,
            failure,
            recording,
        }
    }
}

/// A verdict that is no failure of the stage.
impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self::Settle(Ruling { verdict, failure: None })
    }
}

/// Decides what happens next to a delivery. Once the stage was called, the decision is never
/// [`Decision::Call`].
pub fn decide(mut inputs: DecisionInputs<'_>) -> Decision {
    if inputs.subject_cancelled || inputs.chain.stopped {
        return Verdict::Skipped.into();
    }
    match std::mem::take(&mut inputs.progress) {
        Progress::Scheduled { due_at_ms } if due_at_ms > inputs.now_ms => {
            Verdict::Deferred { due_at_ms }.into()
        }
        Progress::NotCalled | Progress::Scheduled { .. } => before_call(&inputs),
        // The stage's dependency is known to be down: the message goes behind the others.
        Progress::Called { outcome, uncounted: true } if outcome.is_retryable() => {
            let wait_ms = outcome.retry_after_ms().max(UNCOUNTED_DEFER_MS);
            Verdict::Deferred { due_at_ms: inputs.now_ms + wait_ms }.into()
        }
        Progress::Called { outcome, .. } => after_call(&inputs, outcome),
        Progress::Rejected(rejection) => rejected(&inputs, rejection),
        Progress::KeyInUse(EventKey { source, id }) => {
            let message = format!(
                "the log has another event `{id}` of `{source}`: use another id for each event"
            );
            failed(&inputs, AttemptError::fatal("event-conflict", message))
        }
        Progress::Refused { code, message } => {
            let message = format!("the store refuses the outcome: {message}");
            failed(&inputs, AttemptError::fatal(format!("store:{code}"), message))
        }
    }
}

/// The settlement of an open delivery whose stage was deleted from the pipeline: nothing will run it.
pub(crate) fn deleted_stage(stage: &Arc<str>, open: OpenDelivery) -> Settlement {
    let OpenDelivery { envelope, round, attempt, .. } = open;
    Settlement {
        delivery: DeliveryKey { stage: Arc::clone(stage), event: envelope.key() },
        envelope,
        scheduled_ms: None,
        round,
        attempt,
        verdict: Verdict::Skipped,
        version: String::new(),
        digest: "".into(),
        host: None,
        duration_us: 0,
        failure: None,
        recording: None,
    }
}

/// Settles without a call what has expired, or what this version of the stage does not consume.
fn before_call(inputs: &DecisionInputs<'_>) -> Decision {
    let DecisionInputs { policy, envelope, expires_at_ms, now_ms, .. } = *inputs;
    if expires_at_ms <= now_ms {
        let message = format!("expired {} ms ago", now_ms - expires_at_ms);
        return dead_letter(inputs, "expired", message).into();
    }
    if let Some(why) = unreadable(&envelope.event.data) {
        let again = (why != ERASED).then_some(0);
        let error =
            AttemptError::fatal("unreadable-body", format!("the body cannot be read: {why}"));
        return failed(inputs, AttemptError { retry_after_ms: again, ..error });
    }
    let event_type = &envelope.event.event_type;
    if policy.consumes.iter().any(|pattern| topic_matches(pattern, event_type)) {
        Decision::Call
    } else {
        Verdict::Skipped.into()
    }
}

fn after_call(inputs: &DecisionInputs<'_>, outcome: Outcome) -> Decision {
    let failure = match outcome {
        Outcome::Done(emitted) => match emitted::new_events(inputs, emitted) {
            Ok(events) => return Verdict::Done(events).into(),
            Err(invalid) => invalid,
        },
        Outcome::Unavailable(_) => {
            return Verdict::Deferred { due_at_ms: inputs.now_ms + UNAVAILABLE_DEFER_MS }.into();
        }
        Outcome::Failed(failure) => AttemptError {
            retry_after_ms: failure
                .retryable
                .then(|| u64::from(failure.retry_after_ms.unwrap_or(0))),
            ..AttemptError::fatal(failure.code, failure.message)
        },
        Outcome::Trapped { kind, message, backtrace } => AttemptError {
            backtrace,
            retry_after_ms: Some(0),
            ..AttemptError::fatal(format!("trap:{kind}"), message)
        },
        Outcome::LimitExceeded { limit, message } => AttemptError::fatal(limit.code(), message),
    };
    failed(inputs, failure)
}

fn rejected(inputs: &DecisionInputs<'_>, rejection: Rejection<'_>) -> Decision {
    let error = match rejection {
        Rejection::Unreadable(why) => {
            AttemptError::fatal("unreadable", format!("the message cannot be read: {why}"))
        }
        Rejection::Forged(why) => AttemptError::fatal(
            "forged",
            format!("a message that claims to be a host's is not: {why}"),
        ),
        Rejection::Queue(reason) => AttemptError::fatal(
            reason.replace('_', "-"),
            format!("the broker dead-lettered the message ({reason})"),
        ),
        Rejection::DeliveryLimit(IsolatedRun::NotRecorded { host, unconfirmed }) => {
            let failure = unconfirmed.cloned().unwrap_or_else(|| isolated_run(inputs, host));
            // Should this host end now and the broker lose the message, the outbox sends it again.
            let verdict = Verdict::Retry { due_at_ms: failure.at_ms + ISOLATED_RUN_TIMEOUT_MS };
            return Decision::Settle(Ruling { verdict, failure: Some(failure) });
        }
        Rejection::DeliveryLimit(IsolatedRun::NotBegun) => return Decision::Call,
        Rejection::DeliveryLimit(IsolatedRun::Abandoned) => AttemptError::fatal(
            DELIVERY_LIMIT_CODE,
            "every host that took the message stopped, also the one that ran it isolated",
        ),
    };
    failed(inputs, error)
}

/// The record of an isolated run that is about to begin.
fn isolated_run(inputs: &DecisionInputs<'_>, host: &str) -> FailedAttempt {
    let message = format!(
        "delivered too often: hosts that took the message stopped; {host} runs it once, isolated"
    );
    failed_attempt(inputs, AttemptError::fatal(DELIVERY_LIMIT_CODE, message))
}

/// Whether `failure` records the isolated run that follows this attempt.
pub(super) fn records_isolated_run(failure: &FailedAttempt, round: u32, attempt: u32) -> bool {
    failure.code == DELIVERY_LIMIT_CODE && (failure.round, failure.attempt) == (round, attempt)
}

/// Why an attempt failed.
struct AttemptError {
    code: String,
    message: String,
    backtrace: Option<String>,
    /// Shortest wait before the next attempt; none: no attempt follows.
    retry_after_ms: Option<u64>,
}

impl AttemptError {
    /// An error that no further attempt can resolve.
    fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), backtrace: None, retry_after_ms: None }
    }
}

/// Retries while attempts are left and the error allows it; dead-letters otherwise.
fn failed(inputs: &DecisionInputs<'_>, error: AttemptError) -> Decision {
    let DecisionInputs { policy, attempt, now_ms, random, .. } = *inputs;
    let retry_after_ms = error.retry_after_ms;
    let failure = failed_attempt(inputs, error);
    let verdict = match retry_after_ms {
        Some(at_least_ms) if attempt.attempt < policy.retry.max_attempts => {
            let wait_ms = policy.retry.wait_ms(attempt.attempt, random).max(at_least_ms);
            Verdict::Retry { due_at_ms: now_ms + wait_ms }
        }
        _ => dead_letter(inputs, &failure.code, failure.message.clone()),
    };
    Decision::Settle(Ruling { verdict, failure: Some(failure) })
}

fn failed_attempt(inputs: &DecisionInputs<'_>, error: AttemptError) -> FailedAttempt {
    let attempt = inputs.attempt;
    // A guest's texts may contain anything, at any length.
    FailedAttempt {
        round: attempt.round,
        attempt: attempt.attempt,
        code: bounded(error.code, CODE_MAX_BYTES),
        message: bounded(error.message, MESSAGE_MAX_BYTES),
        backtrace: error.backtrace.map(|text| bounded(text, MESSAGE_MAX_BYTES)),
        digest: attempt.digest.to_string(),
        host: attempt.host.clone(),
        duration_us: attempt.duration_us,
        at_ms: inputs.now_ms,
    }
}

/// A guest's text in a form that every store accepts, truncated to `max_bytes`.
fn bounded(text: String, max_bytes: usize) -> String {
    let mut text = without_nul(text);
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn dead_letter(inputs: &DecisionInputs<'_>, code: &str, message: String) -> Verdict {
    let DecisionInputs { policy, envelope, attempt, now_ms, .. } = *inputs;
    let subject = envelope.subject_key.as_ref();
    let data = serde_json::json!({
        "stage": &*policy.name,
        "subject": subject.map(|key| serde_json::json!({ "kind": key.kind(), "id": key.id() })),
        "code": code,
        "message": message,
        "event": {
            "source": envelope.event.source,
            "id": envelope.event.id,
            "type": envelope.event.event_type,
        },
        "attempts": attempt.attempt,
    });
    let event = Event {
        id: dead_letter_event_id(&attempt.delivery, envelope.event.time_ms, attempt.round),
        event_type: DEAD_LETTERED.to_owned(),
        source: policy.source.clone(),
        subject: envelope.event.subject.clone(),
        time_ms: now_ms,
        content_type: "application/json".to_owned(),
        data: data.to_string().into(),
        attributes: vec![("stage".to_owned(), policy.name.to_string())],
    };
    let announcement = following_event(inputs, event, now_ms);
    // A stage that listens to dead letters and fails makes a chain, too.
    let announcement = if is_exhausted(inputs) { announcement.only_logged() } else { announcement };
    Verdict::Dead { code: code.to_owned(), message, announcement }
}

/// Whether the chain is past a limit, so that not even the host continues it. The first dead letter
/// at a limit is not: it announces that the chain ended.
fn is_exhausted(inputs: &DecisionInputs<'_>) -> bool {
    let DecisionInputs { policy, envelope, chain, .. } = *inputs;
    envelope.hops > policy.hops_max || chain.events > policy.chain_events_max
}

/// An event caused by the one under decision, with its routes and its place in the trace.
fn following_event(inputs: &DecisionInputs<'_>, mut event: Event, due_at_ms: u64) -> NewEvent {
    let DecisionInputs { policy, routes, envelope, attempt, .. } = *inputs;
    attempt.trace(&envelope.event).mark(&mut event.attributes);
    let routed_to = routes.stages_for(&event.event_type);
    let envelope = Envelope::caused_by(envelope, event, due_at_ms + policy.expiry_ms);
    NewEvent::new(envelope, due_at_ms, routed_to)
        .produced_by(Arc::clone(&policy.name), Arc::clone(&attempt.digest))
}
