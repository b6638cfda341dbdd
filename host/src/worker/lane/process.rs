//! One message: decide, call the stage if the decision needs its outcome, decide, record.
//!
//! All effects of a message are in its settlement and in the batch's state; nothing is written
//! here. Bounds: one call for each message, under the limits of the stage.

use std::sync::Arc;

use super::batch::BatchRun;
use super::{Lane, Work};
use crate::domain::trace_context::TraceContext;
use crate::pipeline::Running;
use crate::pipeline::plugin_change::PluginChange;
use crate::stage::circuit_breaker::{BreakerState, Permit};
use crate::stage::handler::{Call, CallContext, Handled};
use crate::stage::outcome::Outcome;
use crate::stage::recording::{CallResult, Decided, Recorder};
use crate::stage::state::BatchState;
use crate::store::{Settlement, Verdict};
use crate::worker::decide::{self, Attempt, Decision, DecisionInputs, Progress, Ruling};

/// What a call left beside its outcome.
struct Called {
    recorder: Recorder,
    /// The clock as the stage saw it.
    now_ms: u64,
    result: CallResult,
    /// The breaker's new state, if the call opened or closed it.
    breaker_change: Option<BreakerState>,
}

impl Lane {
    /// Processes one message. Returns the breaker's new state, too, if its call opened or closed
    /// it.
    pub(super) async fn process(
        &self,
        work: &Work,
        run: &BatchRun<'_>,
    ) -> (Settlement, Option<BreakerState>) {
        let mut attempt = Attempt {
            delivery: work.key.clone(),
            round: work.message.round,
            attempt: work.message.attempt,
            digest: run.running.handler.digest().into(),
            duration_us: 0,
        };
        let (mut progress, mut called) = (Progress::NotCalled, None);
        let ruling = loop {
            match self.decide(work, run.running, &attempt, progress) {
                Decision::Settle(ruling) => break ruling,
                Decision::Call => {
                    let (outcome, call) = self.call(work, run, &mut attempt).await;
                    (progress, called) = (outcome, Some(call));
                }
            }
        };
        log_failure(work, &ruling);
        let breaker_change = called.as_ref().and_then(|called| called.breaker_change);
        let recording = called.and_then(|called| called.record(&ruling, run.state));
        let version = run.running.handler.description().version.clone();
        let envelope = Arc::clone(&work.message.envelope);
        (ruling.into_settlement(attempt, envelope, version, recording), breaker_change)
    }

    fn decide(
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
            order_cancelled: work.order_cancelled,
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
    ) -> (Progress<'static>, Called) {
        let call = self.prepare(work, run.state);
        let (recorder, now_ms) = (call.context.recorder.clone(), call.context.now_ms);
        let Handled { outcome, writes, duration, .. } = run.running.handler.handle(call).await;
        attempt.duration_us = duration.as_micros() as u64;
        if let Outcome::Unavailable(why) = &outcome {
            tracing::warn!(stage = %self.stage.name, %why, "call not possible, deferring the message");
        }
        if let Some(why) = self.stage.report_call(&attempt.digest, &outcome) {
            self.report_rollback(&attempt.digest, why);
        }
        let (uncounted_probe, breaker_change) = self.report_health(&outcome, run.permit);
        let result = CallResult { retryable: outcome.is_retryable(), writes };
        let called = Called { recorder, now_ms, result, breaker_change };
        (Progress::Called { outcome, uncounted_probe }, called)
    }

    fn prepare(&self, work: &Work, state: &Arc<BatchState>) -> Call {
        let message = &work.message;
        let recorder = self.stage.recorder();
        let trace = TraceContext::of_attempt(
            &message.envelope.event,
            &work.key,
            message.round,
            message.attempt,
        );
        let now_ms = self.services.clock.now_ms();
        let mut context = CallContext::new(&work.key, message.attempt, now_ms);
        context.trace_headers = trace.headers();
        context.settings = Arc::clone(&self.stage.settings);
        context.recorder = recorder.clone();
        Call {
            envelope: Arc::clone(&message.envelope),
            context,
            state: state.recorded_view(recorder),
        }
    }

    /// Reports a call to the circuit breaker. Returns whether it was a probe whose failure does not
    /// count as an attempt, and the breaker's new state if the call opened or closed it.
    fn report_health(&self, outcome: &Outcome, permit: Permit) -> (bool, Option<BreakerState>) {
        let Some(health) = outcome.health() else { return (false, None) };
        let now_ms = self.services.clock.now_ms();
        let mut breaker = self.stage.breaker();
        // Asked before the report, which counts a failed probe.
        let is_uncounted = permit == Permit::Probe && breaker.probe_is_uncounted();
        (is_uncounted, breaker.report(health, now_ms))
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

fn log_failure(work: &Work, ruling: &Ruling) {
    let Some(failure) = ruling.failure() else { return };
    let event = &work.message.envelope.event;
    tracing::warn!(
        stage = %work.key.stage,
        event = %event.id,
        event_type = %event.event_type,
        order = work.message.envelope.order_id.as_deref(),
        attempt = work.message.attempt,
        code = %failure.code,
        dead_lettered = matches!(ruling.verdict(), Verdict::Dead { .. }),
        "{}", failure.message
    );
}
