//! Runs one event through a plugin without a host, and decides about the outcome as a host does: with
//! the host's own decision function. Shared by `plugin run`, `plugin test` and `dev`.
//!
//! What a host would refuse is refused here: event types that the stage does not consume or declare,
//! delays above the limit, secrets in events and state, HTTP calls without a grant.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};

use super::case::Case;
use crate::compiler;
use postrider::internals::{
    Attempt, BatchState, Call, ChainStatus, Decision, DecisionInputs, Egress, Handled,
    InstancePolicy, LaneCache, Linked, Logs, MemoryState, Nowhere, Outcome, Pipeline, Pool,
    Progress, Runtime, RuntimeSettings, SECRET_LEAK, Settings, StageHandler, StagePolicy,
    TraceContext, WasmStage, as_json, decide, event_settings_problem,
};
use postrider::{CallContext, Config, DeliveryKey, Envelope, Settlement, StageConfig, Verdict};

/// Code of an event that the host would not route to the stage.
const NOT_CONSUMED: &str = "not-consumed";

/// A loaded plugin, as one stage of a configuration.
pub(crate) struct DryRun {
    linked: Linked,
    name: Arc<str>,
    config: Config,
    /// Reuse one instance for all calls.
    warm: bool,
}

/// Which stage a plugin file is run as.
#[derive(Debug, Default)]
pub(crate) struct RunAs<'a> {
    /// The stage; by default the first that the configuration runs with the file.
    pub(crate) stage: Option<&'a str>,
    /// Reuse one instance for all calls.
    pub(crate) warm: bool,
    /// Instances come from where a host takes them, so that calls cost the same as there.
    pub(crate) timed: bool,
}

impl DryRun {
    pub(crate) async fn load(file: &Path, config: Config, run_as: RunAs<'_>) -> Result<Self> {
        let linked = if run_as.timed {
            load_with(file, config.runtime.clone()).await?
        } else {
            load(file, &config.runtime).await?
        };
        Self::of(linked, file, config, run_as)
    }

    /// A plugin that is loaded already.
    pub(crate) fn of(
        linked: Linked,
        file: &Path,
        config: Config,
        RunAs { stage, warm, .. }: RunAs<'_>,
    ) -> Result<Self> {
        let described = &linked.description.name;
        let name = match stage {
            Some(stage) => {
                let known = config.stages.contains_key(stage) || stage == described;
                ensure!(known, "--stage: the configuration has no stage `{stage}`");
                stage.to_owned()
            }
            None => stages_of(&config, file, described).remove(0),
        };
        Ok(Self { linked, name: name.into(), config, warm })
    }

    /// The configuration of the stage with the settings of a fixture.
    fn config_for(&self, case: &Case) -> Config {
        let mut config = self.config.clone();
        let mut stage = config.stage(&self.name).clone();
        stage.settings.extend(case.config.clone());
        config.stages.insert(self.name.to_string(), stage);
        config
    }

    /// Runs the fixture `times` times, always from the same state. Returns the outcome of the first
    /// run and the durations of all.
    pub(crate) async fn run(&self, case: &Case, now_ms: u64, times: u32) -> Result<DryRunResult> {
        let config = self.config_for(case);
        let stage = config.stage(&self.name);
        if let Some(problem) = event_settings_problem(&self.linked.description, &stage.settings) {
            bail!("stage {}: {problem}", self.name);
        }
        let handler = self.handler(case, stage)?;
        let now_ms = case.now_ms.unwrap_or(now_ms);
        let envelope = Arc::new(case.envelope(now_ms)?);
        let delivery = DeliveryKey { stage: Arc::clone(&self.name), event: envelope.key() };
        let mut attempt = Attempt::new(delivery, 1, case.attempt, Arc::clone(&self.linked.digest));
        let policy = config.stage_policy(&self.name, &self.linked.description);
        let judge = Judge { policy: &policy, envelope: &envelope, now_ms };
        if let Decision::Settle(ruling) = judge.decide(&attempt, Progress::NotCalled) {
            let version = self.linked.description.version.clone();
            let settlement = ruling.into_settlement(attempt, envelope, version, None);
            return Ok(DryRunResult::not_called(settlement, &policy));
        }
        let logs = Logs::default();
        let mut context = CallContext::new(&attempt.delivery, attempt.attempt, now_ms);
        context.logs = Some(logs.clone());
        let call = self.call(case, stage, &envelope, context);
        let mut first = handler.handle(call()).await;
        let lines = logs.take();
        let mut durations_ms = vec![first.duration.as_secs_f64() * 1_000.0];
        for _ in 1..times {
            let again = handler.handle(call()).await;
            durations_ms.push(again.duration.as_secs_f64() * 1_000.0);
            first.memory_bytes = first.memory_bytes.max(again.memory_bytes);
        }
        attempt.duration_us = first.duration.as_micros() as u64;
        let called = Progress::Called { outcome: first.outcome.clone(), uncounted: false };
        let Decision::Settle(ruling) = judge.decide(&attempt, called) else {
            bail!("the stage made no decision");
        };
        let version = self.linked.description.version.clone();
        let settlement = ruling.into_settlement(attempt, envelope, version, None);
        Ok(DryRunResult {
            settlement,
            handled: Some(first),
            logs: json!(lines),
            durations_ms,
            refused: None,
        }
        .with_refusal())
    }

    fn handler(&self, case: &Case, stage: &StageConfig) -> Result<WasmStage> {
        let egress = match case.mocks() {
            Some(mocks) => Some(Egress::mocked(&stage.grants, mocks)),
            None => {
                self.linked.check_grants(&self.name, &stage.grants).context(
                    "a host does not load it: give a configuration with the grant (--config), or \
                     the answers in the fixture (\"http\": [{\"url\", \"status\"?, \"body\"?}])",
                )?;
                Egress::new(&stage.grants)
            }
        };
        let instances =
            if self.warm { InstancePolicy::Warm(stage.warm) } else { InstancePolicy::Fresh };
        Ok(WasmStage::new(&self.linked, stage.limits, instances).with_egress(egress))
    }

    /// Makes calls of the fixture, each from its initial state.
    fn call(
        &self,
        case: &Case,
        stage: &StageConfig,
        envelope: &Arc<Envelope>,
        context: CallContext,
    ) -> impl Fn() -> Call + use<> {
        let initial: BTreeMap<String, Bytes> =
            case.state.iter().map(|(key, value)| (key.clone(), value.to_string().into())).collect();
        let delivery = DeliveryKey { stage: Arc::clone(&self.name), event: envelope.key() };
        let trace = TraceContext::of_attempt(&envelope.event, &delivery, 1, context.attempt);
        let mut context = context.traced(trace);
        let secrets = stage.secret_values.with(case.secrets.clone());
        context.settings = Arc::new(Settings::new(&stage.settings, &secrets));
        let state = BatchState::new(
            Arc::clone(&self.name),
            Arc::new(MemoryState(initial)),
            stage.limits.state_limits(),
            LaneCache::placeholder(),
        );
        let envelope = Arc::clone(envelope);
        move || Call {
            envelope: Arc::clone(&envelope),
            context: context.clone(),
            state: state.view(),
        }
    }
}

/// Decides as a worker does.
struct Judge<'a> {
    policy: &'a StagePolicy,
    envelope: &'a Envelope,
    now_ms: u64,
}

impl Judge<'_> {
    fn decide(&self, attempt: &Attempt, progress: Progress<'_>) -> Decision {
        decide(DecisionInputs {
            policy: self.policy,
            routes: &Nowhere,
            envelope: self.envelope,
            attempt,
            subject_cancelled: false,
            chain: ChainStatus::default(),
            expires_at_ms: u64::MAX,
            progress,
            now_ms: self.now_ms,
            random: 0.0,
        })
    }
}

/// The result of running a fixture.
pub(crate) struct DryRunResult {
    /// What a host would commit.
    pub(crate) settlement: Settlement,
    /// None if a host would not have called the stage.
    handled: Option<Handled>,
    pub(crate) logs: Value,
    durations_ms: Vec<f64>,
    /// Why a host refuses what the stage did, with its code.
    pub(crate) refused: Option<(String, String)>,
}

impl DryRunResult {
    fn not_called(settlement: Settlement, policy: &StagePolicy) -> Self {
        let event_type = &settlement.envelope.event.event_type;
        let message = format!(
            "a host does not send `{event_type}` to stage `{}`, which consumes {}",
            policy.name,
            policy.consumes.join(", ")
        );
        let refused = Some((NOT_CONSUMED.to_owned(), message));
        Self { settlement, handled: None, logs: json!([]), durations_ms: Vec::new(), refused }
    }

    /// Notes what the host refuses although the stage succeeded.
    fn with_refusal(mut self) -> Self {
        let outcome = self.handled.as_ref().map(|handled| &handled.outcome);
        self.refused = match (outcome, &self.settlement.verdict) {
            (Some(Outcome::Done(_)), Verdict::Dead { code, message, .. }) => {
                Some((code.clone(), message.clone()))
            }
            (Some(Outcome::Failed(failure)), _) if failure.code == SECRET_LEAK => {
                Some((failure.code.clone(), failure.message.clone()))
            }
            _ => None,
        };
        self
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.settlement.verdict, Verdict::Done(_))
    }

    /// The outcome and the state changes, which do not vary between runs.
    pub(crate) fn decision(&self) -> Value {
        let written = |(key, value): (&String, &Option<Bytes>)| {
            (key.clone(), value.as_ref().map_or(Value::Null, |value| as_json(value)))
        };
        let writes: BTreeMap<String, Value> = match &self.handled {
            Some(handled) if self.is_done() => handled.writes.iter().map(written).collect(),
            _ => BTreeMap::new(),
        };
        let outcome = match (&self.refused, &self.handled) {
            (Some((code, message)), _) => {
                json!({ "refused": { "code": code, "message": message } })
            }
            (None, Some(handled)) => outcome(&handled.outcome),
            (None, None) => Value::Null,
        };
        json!({ "outcome": outcome, "state_changes": writes })
    }

    /// Call times and memory use, which do vary.
    pub(crate) fn cost(&self) -> Value {
        let rounded = |ms: f64| (ms * 1_000.0).round() / 1_000.0;
        let Some(first) = self.durations_ms.first() else { return Value::Null };
        let mut sorted = self.durations_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| rounded(sorted[((sorted.len() - 1) as f64 * share) as usize]);
        let duration = json!({
            "first": rounded(*first),
            "p50": quantile(0.5),
            "p95": quantile(0.95),
            "calls": sorted.len(),
        });
        let memory = self.handled.as_ref().map(|handled| handled.memory_bytes);
        json!({ "duration_ms": duration, "memory_bytes": memory })
    }
}

/// The stages that a configuration runs with a plugin file; at least one.
pub(crate) fn stages_of(config: &Config, file: &Path, described: &str) -> Vec<String> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    Pipeline::new(config, Arc::default()).names_for(&name.unwrap_or_default(), described)
}

/// Loads a plugin file for one call at a time, which needs no instance pool. Compiled code is cached
/// in the user's home, so a large plugin is compiled only once.
pub(crate) async fn load(file: &Path, settings: &RuntimeSettings) -> Result<Linked> {
    load_with(file, RuntimeSettings { pool: Pool::OnDemand, ..settings.clone() }).await
}

async fn load_with(file: &Path, settings: RuntimeSettings) -> Result<Linked> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let home = || std::env::home_dir().map(|home| home.join(".cache/postrider"));
    let cache_dir = settings.cache_dir.clone().filter(|_| settings.quick).or_else(home);
    let runtime =
        Runtime::new(RuntimeSettings { cache_dir, compiler: compiler::program(), ..settings })?;
    runtime.load(bytes).await.with_context(|| format!("{} is not a valid plugin", file.display()))
}

fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done(emitted) => {
            let events: Vec<Value> = emitted
                .iter()
                .map(|event| {
                    let attributes: BTreeMap<_, _> = event.attributes.iter().cloned().collect();
                    json!({
                        "type": event.event_type, "subject": event.subject, "delay_ms": event.delay_ms,
                        "data": as_json(&event.data), "attributes": attributes,
                    })
                })
                .collect();
            json!({ "done": events })
        }
        Outcome::Failed(failure) => json!({ "failed": failure }),
        Outcome::Trapped { kind, message, backtrace } => {
            let frames = backtrace.as_ref().map(|text| text.lines().collect::<Vec<_>>());
            json!({ "trapped": { "kind": kind, "message": message, "backtrace": frames } })
        }
        Outcome::LimitExceeded { limit, message } => {
            json!({ "limit": { "name": limit.code(), "message": message } })
        }
        Outcome::Unavailable(reason) => json!({ "unavailable": reason }),
        other => json!({ "other": format!("{other:?}") }),
    }
}
