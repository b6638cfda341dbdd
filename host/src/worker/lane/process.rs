//! One message: decide, call the stage if the decision needs its outcome, decide, record.
//!
//! All effects of a message are in its settlement and in the batch's state; nothing is written
//! here. Bounds: one call for each message, under the limits of the stage.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tracing::Instrument as _;

use super::batch::BatchRun;
use super::spans::CallTimes;
use super::{Lane, Work};
use crate::broker::{Incoming, Sender};
use crate::domain::event::shortened;
use crate::domain::spans::{CallSpans, FinishedSpan};
use crate::pipeline::Running;
use crate::pipeline::plugin_change::PluginChange;
use crate::services::SPANS;
use crate::stage::circuit_breaker::{BreakerState, CallReport, Health, Reported};
use crate::stage::delivery_log::{DeliveryLog, log_delivery};
use crate::stage::handler::{Call, CallContext, ExternalCalls, Handled, panic_text};
use crate::stage::outcome::Outcome;
use crate::stage::recording::{CallResult, Decided, Recorder};
use crate::stage::state::BatchState;
use crate::store::{Settlement, Verdict};
use crate::worker::decide::{self, Attempt, Decision, DecisionInputs, Progress, Ruling};
use crate::worker::delivery_log::log_ruling;

/// The code of a failure that means that a dependency is down, and the attribute of a description
/// that lists further ones, separated by commas.
const UNAVAILABLE: &str = "unavailable";
/// Longest error in the reason of an open circuit breaker.
const ERROR_MAX_BYTES: usize = 300;

/// What is told about an attempt, beside its outcome.
struct Told<'a> {
    log: &'a Arc<DeliveryLog>,
    /// Collects the spans of its calls, if they are recorded.
    calls: Option<CallSpans>,
}

/// What a call left beside its outcome.
struct Called {
    recorder: Recorder,
    /// The clock as the stage saw it.
    now_ms: u64,
    result: CallResult,
    /// The breaker's new state, if the call opened or closed it.
    breaker_change: Option<BreakerState>,
    times: CallTimes,
}

impl Lane {
    /// Processes one message, and adds what is to be recorded of it to `spans`. Returns the breaker's new
    /// state, too, if its call opened or closed it.
    pub(super) async fn process(
        &self,
        work: &Work,
        run: &BatchRun<'_>,
        spans: &mut Vec<FinishedSpan>,
    ) -> (Settlement, Option<BreakerState>) {
        let mut attempt = self.attempt(work, run.running);
        let log = Arc::new(attempt.log(&self.stage, &work.message.envelope));
        let recorded = self.begin_span(&log.trace);
        let due_at_ms = work.message.sender.due_at_ms();
        let begin =
            due_at_ms.map_or(Progress::NotCalled, |due_at_ms| Progress::Scheduled { due_at_ms });
        let (mut progress, mut called) = (begin, None);
        let ruling = loop {
            match self.decide(work, run.running, &attempt, progress) {
                Decision::Settle(ruling) => break ruling,
                Decision::Call => {
                    let told = Told {
                        log: &log,
                        calls: recorded.as_ref().map(|recorded| recorded.calls.clone()),
                    };
                    let (outcome, call) = self.call(work, run, &mut attempt, told).await;
                    (progress, called) = (outcome, Some(call));
                }
            }
        };
        log_ruling(&log, &ruling, attempt.duration_us);
        let breaker_change = called.as_ref().and_then(|called| called.breaker_change);
        let times = called.as_ref().map(|called| called.times);
        let recording = called.and_then(|called| called.record(&ruling, run.state));
        let version = run.running.handler.description().version.clone();
        let envelope = Arc::clone(&work.message.envelope);
        let settlement = ruling.into_settlement(attempt, envelope, version, recording);
        if let Some(recorded) = recorded {
            spans.extend(self.spans_of(recorded, work, &settlement, times));
        }
        (Settlement { scheduled_ms: due_at_ms, ..settlement }, breaker_change)
    }

    pub(super) fn decide(
        &self,
        work: &Work,
        running: &Running,
        attempt: &Attempt,
        progress: Progress<'_>,
    ) -> Decision {
        let envelope = &*work.message.envelope;
        let expiry_ms = running.policy.expiry_ms;
        decide::decide(DecisionInputs {
            policy: &running.policy,
            routes: &*self.services.pipeline,
            envelope,
            attempt,
            subject_cancelled: work.subject_cancelled,
            chain: self.services.pipeline.chains().status(&envelope.correlation_id),
            expires_at_ms: self.stage.expires_at_ms(envelope.expires_at_ms, expiry_ms),
            progress,
            now_ms: self.services.clock.now_ms(),
            random: rand::random(),
        })
    }

    /// Calls the stage, and reports the call to the rollout guard and the circuit breaker.
    async fn call(
        &self,
        work: &Work,
        run: &BatchRun<'_>,
        attempt: &mut Attempt,
        told: Told<'_>,
    ) -> (Progress<'static>, Called) {
        let log = told.log;
        let call = self.prepare(work, run.state, told);
        let (recorder, now_ms) = (call.context.recorder.clone(), call.context.now_ms);
        let waited = waited(&work.message, now_ms);
        // A bug of the host that one message triggers must not stop the lane again and again.
        let span = tracing::info_span!(
            target: SPANS,
            "call",
            stage = %self.stage.name,
            event = %work.message.envelope.event.id,
            attempt = work.message.attempt
        );
        let handling = run.running.handler.handle(call).instrument(span);
        let handled = AssertUnwindSafe(handling).catch_unwind().await;
        let handled = handled.unwrap_or_else(|panic| Handled {
            outcome: Outcome::Trapped {
                kind: "host-panic".to_owned(),
                message: panic_text(panic.as_ref()),
                backtrace: None,
            },
            ..Handled::nothing()
        });
        let Handled { outcome, writes, duration, memory_bytes, external } = handled;
        self.stage.metrics.record_call(waited, duration, memory_bytes);
        attempt.duration_us = duration.as_micros() as u64;
        if let Outcome::Unavailable(why) = &outcome {
            log_delivery!(WARN, log, %why, "call not possible, deferring the message");
        }
        let envelope = &work.message.envelope;
        if let Some(why) = self.stage.report_call(&attempt.digest, envelope, &outcome) {
            self.report_rollback(&attempt.digest, why);
        }
        let Reported { change, uncounted } = self.report_health(work, run, &outcome, external);
        let result = CallResult { retryable: outcome.is_retryable(), writes };
        let times = CallTimes { waited, duration };
        let called = Called { recorder, now_ms, result, breaker_change: change, times };
        (Progress::Called { outcome, uncounted }, called)
    }

    fn prepare(&self, work: &Work, state: &Arc<BatchState>, told: Told<'_>) -> Call {
        let Told { log, calls } = told;
        let message = &work.message;
        let recorder = self.stage.recorder();
        let now_ms = self.services.clock.now_ms();
        let mut context = CallContext::new(&work.key.delivery, message.attempt, now_ms);
        context.trace = Some(log.trace.clone());
        context.log = Some(Arc::clone(log));
        context.calls = calls;
        context.settings = Arc::clone(&self.stage.settings);
        context.recorder = recorder.clone();
        Call {
            envelope: Arc::clone(&message.envelope),
            context,
            state: state.recorded_view(recorder),
        }
    }

    /// Whether a failure with this code means that a dependency is down: by the operator's
    /// configuration, by the stage's description, or by its name.
    fn is_unavailable(&self, code: &str, running: &Running) -> bool {
        let named = |list: &str| list.split(',').any(|name| name.trim() == code);
        code == UNAVAILABLE
            || self.stage.config.breaker.unavailable.iter().any(|marked| marked == code)
            || running
                .handler
                .description()
                .attributes
                .iter()
                .any(|(name, list)| name == UNAVAILABLE && named(list))
    }

    /// Reports a call to the circuit breaker.
    fn report_health(
        &self,
        work: &Work,
        run: &BatchRun<'_>,
        outcome: &Outcome,
        external: ExternalCalls,
    ) -> Reported {
        let health = outcome.health(external, |code| self.is_unavailable(code, run.running));
        let error = match health {
            Health::Good | Health::Unknown => String::new(),
            Health::Unavailable | Health::TimedOut => outcome.error(),
        };
        let call = CallReport {
            permit: run.permit,
            health,
            subject: &work.message.envelope.event.subject,
            error: shortened(&error, ERROR_MAX_BYTES),
        };
        self.stage.breaker().report(call, self.services.clock.now_ms())
    }

    /// Tells the supervisor that the previous version runs again, so that it restores the file.
    fn report_rollback(&self, digest: &str, why: String) {
        tracing::error!(
            stage = %self.stage.name, digest, why,
            "new version rolled back, the previous one runs again"
        );
        let change = PluginChange::RolledBack {
            stage: Arc::clone(&self.stage.name),
            digest: digest.to_owned(),
            why,
        };
        // Never waited for: the supervisor may be waiting for this lane.
        if self.services.plugins.upgrade().is_none_or(|plugins| plugins.try_send(change).is_err()) {
            tracing::error!(
                stage = %self.stage.name,
                "the supervisor is busy, the plugin file is not restored"
            );
        }
    }
}

impl Called {
    /// Adds the writes of a successful call to the batch, and returns the recording in JSON.
    fn record(self, ruling: &Ruling, state: &BatchState) -> Option<String> {
        let Self { recorder, now_ms, result, .. } = self;
        let verdict = ruling.verdict();
        let recording = recorder.finish(now_ms, || Decided::of(verdict, &result));
        if matches!(verdict, Verdict::Done(_)) {
            state.merge(result.writes);
        }
        recording
    }
}

/// How long a message waited for the stage: since its event was written, or, on a later attempt and for
/// another program's event, since this host received it.
fn waited(message: &Incoming, now_ms: u64) -> Duration {
    let here = message.received.elapsed();
    match message.sender {
        Sender::Host if message.attempt == 1 && message.round == 1 => {
            let written =
                Duration::from_millis(now_ms.saturating_sub(message.envelope.event.time_ms));
            written.max(here)
        }
        _ => here,
    }
}
