//! Replays recorded events through another version of their stage. Writes nothing, sends nothing.
//!
//! The stage receives exactly what was recorded. A read that was not recorded ends the call, and the
//! verdict is [`ReplayVerdict::Unknown`], never [`ReplayVerdict::Equal`]. The outcome goes through
//! the same decision function as in the pipeline before it is compared. Each [`Replay::run`] makes
//! one call, under the limits of the stage. The command `replay` and the API use it.

mod compare;
mod recorded_state;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use self::compare::Change;
use self::compare::Decision;
use self::recorded_state::RecordedState;
#[cfg(feature = "http")]
pub use self::report::{Differences, Reason};
pub use self::report::{ReplayReport, ReplayedEvent};
use crate::domain::event::Envelope;
use crate::domain::trace_context::TraceContext;
use crate::pipeline::chains::{CHAIN_LIMIT_CODE, ChainStatus};
use crate::pipeline::routes::Routes;
use crate::stage::handler::{Call, CallContext, Logs, Outcome, StageHandler};
use crate::stage::policy::StagePolicy;
use crate::stage::recording::{
    CallResult, Decided, Recorded, RecordedInputs, RecordedOutcome, Recorder, Recording,
};
use crate::stage::state::{BatchState, LaneCache, StateLimits};
use crate::store::StateSource;
use crate::worker::decide::{self, Attempt, DecisionInputs, Progress};

/// Maximum size of the settings that one call may read.
const NOTED_MAX_BYTES: usize = 1 << 20;

/// The result of replaying one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayVerdict {
    /// The same decision.
    Equal,
    /// The decision differs in these ways.
    Different(Vec<Change>),
    /// The stage read something that was not recorded.
    Unknown(String),
    /// The event could not be run.
    Failed(String),
}

/// A version of a stage, with the policy, limits and settings to replay it with.
pub struct Replay {
    handler: Arc<dyn StageHandler>,
    policy: StagePolicy,
    limits: StateLimits,
    settings: BTreeMap<String, String>,
}

/// Routes for a decision whose events are never sent.
pub struct Nowhere;

impl Routes for Nowhere {
    fn stages_for(&self, _: &str) -> Vec<Arc<str>> {
        Vec::new()
    }
}

impl Replay {
    /// Replays with `handler` under the policy and the limits of its stage. `settings` override the
    /// recorded ones.
    pub fn new(
        handler: Arc<dyn StageHandler>,
        mut policy: StagePolicy,
        limits: StateLimits,
        settings: BTreeMap<String, String>,
    ) -> Self {
        // A replay has a single attempt, so a failure is compared as it is.
        policy.retry.max_attempts = 1;
        Self { handler, policy, limits, settings }
    }

    /// Runs one recorded event and compares.
    pub async fn run(&self, recorded: &Recorded) -> ReplayVerdict {
        let Some(recording) = &recorded.recording else {
            return ReplayVerdict::Unknown("the recording cannot be read".to_owned());
        };
        let Some(before) = recorded_decision(recording, recorded.outcome.as_ref()) else {
            return ReplayVerdict::Unknown(
                "an event it emitted is no longer in the log".to_owned(),
            );
        };
        match self.decide(recorded, recording).await {
            Ok(after) => {
                let changes = compare::changes(&before, &after);
                if changes.is_empty() {
                    ReplayVerdict::Equal
                } else {
                    ReplayVerdict::Different(changes)
                }
            }
            Err(other) => other,
        }
    }

    async fn decide(
        &self,
        recorded: &Recorded,
        recording: &Recording,
    ) -> Result<Decision, ReplayVerdict> {
        let (key, envelope) = (recorded.key(), Arc::new(recorded.envelope()));
        let digest = self.handler.digest().into();
        let attempt = Attempt::new(key.clone(), recorded.round, recorded.attempt, digest);
        // How many events the chain had is not recorded, only whether they were too many.
        let events = if was_at_chain_limit(recording) { u64::MAX } else { 0 };
        let chain = ChainStatus { events, stopped: false };
        let inputs = |progress| DecisionInputs {
            policy: &self.policy,
            routes: &Nowhere,
            envelope: &envelope,
            attempt: &attempt,
            subject_cancelled: false,
            chain,
            // The recorded call was made, so the event had not expired.
            expires_at_ms: u64::MAX,
            progress,
            now_ms: recording.now_ms,
            random: 0.0,
        };
        if let decide::Decision::Settle(_) = decide::decide(inputs(Progress::NotCalled)) {
            return Ok(Decision::Skipped);
        }
        let source = Arc::new(RecordedState::new(recording.given.clone()));
        let recorder = Recorder::new(NOTED_MAX_BYTES, Arc::default());
        let state = BatchState::new(
            Arc::clone(&key.stage),
            Arc::clone(&source) as Arc<dyn StateSource>,
            self.limits,
            LaneCache::placeholder(),
        );
        let context = self.context(recorded, recording, &envelope, &recorder);
        let handled = self
            .handler
            .handle(Call { envelope: Arc::clone(&envelope), context, state: state.view() })
            .await;
        let missed = source.missed();
        let missed =
            missed.or_else(|| self.unrecorded_setting(&recorder.given(), &recording.given));
        if let Some(missed) = missed {
            let truncated = if recording.given.incomplete {
                "; the recording is truncated: see recording.max_bytes"
            } else {
                ""
            };
            return Err(ReplayVerdict::Unknown(format!("{missed}{truncated}")));
        }
        if let Outcome::Unavailable(reason) = handled.outcome {
            return Err(ReplayVerdict::Failed(reason));
        }
        let retryable = handled.outcome.is_retryable();
        let result = CallResult { retryable, writes: handled.writes };
        let called = Progress::Called { outcome: handled.outcome, uncounted: false };
        let decision = match decide::decide(inputs(called)) {
            decide::Decision::Settle(ruling) => {
                let verdict = ruling.into_verdict();
                Decided::of(&verdict, &result)
                    .and_then(|decided| Decision::of_verdict(decided, verdict))
            }
            decide::Decision::Call => None,
        };
        decision.ok_or_else(|| ReplayVerdict::Failed("the stage made no decision".to_owned()))
    }

    /// The context that the recorded call had, with the overridden settings.
    fn context(
        &self,
        recorded: &Recorded,
        recording: &Recording,
        envelope: &Envelope,
        recorder: &Recorder,
    ) -> CallContext {
        let key = recorded.key();
        let trace =
            TraceContext::of_attempt(&envelope.event, &key, recorded.round, recorded.attempt);
        let mut context = CallContext::new(&key, recorded.attempt, recording.now_ms);
        context.trace = Some(trace);
        context.settings = Arc::new(self.settings(&recording.given).into_iter().collect());
        // Collected and dropped: a replay must not write to the host's log.
        context.logs = Some(Logs::default());
        context.recorder = recorder.clone();
        context
    }

    fn settings(&self, inputs: &RecordedInputs) -> HashMap<String, String> {
        let recorded =
            inputs.settings.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        recorded.chain(self.settings.clone()).collect()
    }

    /// The first setting that the call read although it is neither recorded nor overridden.
    fn unrecorded_setting(
        &self,
        read: &RecordedInputs,
        recorded: &RecordedInputs,
    ) -> Option<String> {
        if read.incomplete {
            return Some(format!("it read more than {NOTED_MAX_BYTES} bytes of settings"));
        }
        let known =
            |key: &String| recorded.settings.contains_key(key) || self.settings.contains_key(key);
        let unrecorded = read.settings.keys().find(|key| !known(key));
        unrecorded.map(|key| format!("the setting `{key}` was not recorded"))
    }
}

/// Whether the recorded outcome was refused because of the events of its chain.
fn was_at_chain_limit(recording: &Recording) -> bool {
    matches!(&recording.decided, Decided::Dead { code, .. } if code == CHAIN_LIMIT_CODE)
}

/// The recorded decision.
fn recorded_decision(recording: &Recording, outcome: Option<&RecordedOutcome>) -> Option<Decision> {
    match (&recording.decided, outcome?) {
        (Decided::Done { writes, .. }, RecordedOutcome::Done(events)) => {
            Some(Decision::Done { events: events.clone(), writes: writes.clone() })
        }
        (Decided::Dead { code, retryable }, RecordedOutcome::Dead { .. }) => {
            Some(Decision::Fails { code: code.clone(), retryable: *retryable })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
