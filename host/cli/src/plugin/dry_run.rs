//! Runs one event through a plugin without a host. Shared by `plugin run`, `plugin test` and `dev`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use postrider::internals::{
    BatchState, Call, Handled, InstancePolicy, LaneCache, Linked, Logs, MemoryState, Outcome,
    Runtime, RuntimeSettings, StageHandler as _, StageLimits, WasmStage, as_json,
};
use postrider::{CallContext, Clock as _, DeliveryKey, Envelope, Event, SystemClock};

/// A fixture: an event, and the state and settings that the stage runs with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    event: CaseEvent,
    /// Initial state of the stage.
    #[serde(default)]
    pub(super) state: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) config: BTreeMap<String, String>,
    #[serde(default = "first_attempt")]
    attempt: u32,
    /// Time of the stage's clock, in milliseconds since 1970-01-01 UTC.
    now_ms: Option<u64>,
}

fn first_attempt() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseEvent {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default = "event_id")]
    id: String,
    #[serde(default = "event_source")]
    source: String,
    #[serde(default = "event_subject")]
    subject: String,
    time_ms: Option<u64>,
    #[serde(default = "json_type")]
    content_type: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

fn event_id() -> String {
    "event-1".to_owned()
}

fn event_source() -> String {
    "/cli".to_owned()
}

fn event_subject() -> String {
    "subject-1".to_owned()
}

fn json_type() -> String {
    "application/json".to_owned()
}

impl Case {
    /// Parses a fixture, or an event on its own.
    pub(crate) fn parse(json: Value) -> Result<Self> {
        let case = if json.get("event").is_some() { json } else { json!({ "event": json }) };
        serde_json::from_value(case).context(
            "expected an event {\"type\", \"subject\"?, \"data\"?, …}, or a fixture \
             {\"event\", \"state\"?, \"config\"?, \"attempt\"?, \"now_ms\"?}",
        )
    }

    /// The event, with the current time unless the fixture sets one.
    pub(crate) fn event(&self) -> Event {
        self.envelope(SystemClock.now_ms()).event
    }

    fn envelope(&self, now_ms: u64) -> Envelope {
        let case = &self.event;
        // In a fixture, data of any other content type is a JSON string.
        let data = match &case.data {
            Value::String(text) if !case.content_type.contains("json") => text.clone(),
            value => value.to_string(),
        };
        let event = Event {
            id: case.id.clone(),
            event_type: case.event_type.clone(),
            source: case.source.clone(),
            subject: case.subject.clone(),
            time_ms: case.time_ms.unwrap_or(now_ms),
            content_type: case.content_type.clone(),
            data: data.into(),
            attributes: case.attributes.clone().into_iter().collect(),
        };
        Envelope::first(event, None, u64::MAX)
    }
}

/// A loaded plugin.
pub(super) struct DryRun {
    pub(super) stage: WasmStage,
    limits: StageLimits,
}

impl DryRun {
    pub(super) async fn load(file: &Path, instances: InstancePolicy) -> Result<Self> {
        let limits = StageLimits::default();
        Ok(Self { stage: WasmStage::new(&load(file).await?, limits, instances), limits })
    }

    /// Runs the fixture `times` times, always from the same state. Returns the outcome of the first
    /// run and the durations of all.
    pub(super) async fn run(&self, case: &Case, now_ms: u64, times: u32) -> DryRunResult {
        let initial: BTreeMap<String, Bytes> =
            case.state.iter().map(|(key, value)| (key.clone(), value.to_string().into())).collect();
        let name: Arc<str> = self.stage.description().name.as_str().into();
        let now_ms = case.now_ms.unwrap_or(now_ms);
        let envelope = Arc::new(case.envelope(now_ms));
        let key = DeliveryKey { stage: Arc::clone(&name), event: envelope.key() };
        let logs = Logs::default();
        let mut context = CallContext::new(&key, case.attempt, now_ms);
        context.settings = Arc::new(case.config.clone().into_iter().collect());
        context.logs = Some(logs.clone());
        let limits = self.limits.state_limits();
        let state =
            BatchState::new(name, Arc::new(MemoryState(initial)), limits, LaneCache::placeholder());
        let call = || Call {
            envelope: Arc::clone(&envelope),
            context: context.clone(),
            state: state.view(),
        };
        let first = self.stage.handle(call()).await;
        let lines = logs.take();
        let first_ms = first.duration.as_secs_f64() * 1_000.0;
        let mut durations_ms = vec![first_ms];
        for _ in 1..times {
            durations_ms.push(self.stage.handle(call()).await.duration.as_secs_f64() * 1_000.0);
        }
        durations_ms.sort_unstable_by(f64::total_cmp);
        DryRunResult { handled: first, logs: json!(lines), first_ms, durations_ms }
    }
}

pub(super) struct DryRunResult {
    handled: Handled,
    pub(super) logs: Value,
    first_ms: f64,
    durations_ms: Vec<f64>,
}

impl DryRunResult {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.handled.outcome, Outcome::Done(_))
    }

    /// The outcome and the state changes, which do not vary between runs.
    pub(super) fn decision(&self) -> Value {
        let written = |(key, value): (&String, &Option<Bytes>)| {
            (key.clone(), value.as_ref().map_or(Value::Null, |value| as_json(value)))
        };
        let writes: BTreeMap<String, Value> = if self.is_done() {
            self.handled.writes.iter().map(written).collect()
        } else {
            BTreeMap::new()
        };
        json!({ "outcome": outcome(&self.handled.outcome), "state_changes": writes })
    }

    /// Call times and memory use, which do vary.
    pub(super) fn cost(&self) -> Value {
        let quantile =
            |share: f64| self.durations_ms[((self.durations_ms.len() - 1) as f64 * share) as usize];
        let duration = json!({
            "first": self.first_ms,
            "p50": quantile(0.5),
            "p95": quantile(0.95),
            "calls": self.durations_ms.len(),
        });
        json!({ "duration_ms": duration, "memory_bytes": self.handled.memory_bytes })
    }
}

/// Loads a plugin file. Compiled code is cached in the user's home, so a large plugin is compiled
/// only once.
pub(super) async fn load(file: &Path) -> Result<Linked> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let cache_dir = std::env::home_dir().map(|home| home.join(".cache/postrider"));
    let runtime = Runtime::new(RuntimeSettings { cache_dir, ..RuntimeSettings::default() })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_on_its_own_is_a_fixture() {
        let case = Case::parse(json!({ "type": "order.created", "data": { "a": 1 } })).unwrap();
        let envelope = case.envelope(7);
        assert_eq!(
            (&*envelope.event.data, envelope.event.time_ms, envelope.event.subject.as_str()),
            (&b"{\"a\":1}"[..], 7, "subject-1")
        );
        let case = Case::parse(json!({ "event": { "type": "x", "content_type": "text/plain", "data": "hello" }, "attempt": 3 })).unwrap();
        assert_eq!((&*case.envelope(7).event.data, case.attempt), (&b"hello"[..], 3));
        let misspelt = Case::parse(json!({ "type": "x", "dta": 1 })).unwrap_err();
        assert!(format!("{misspelt:#}").contains("`dta`"), "{misspelt:#}");
    }
}
