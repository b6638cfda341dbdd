//! One event through a plugin, without any service: what `plugin run` and `plugin test` share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use postrider::app::as_json;
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::domain::event::{DeliveryKey, Envelope, Event, idempotency_key};
use postrider::runtime::{
    InstancePolicy, Linked, Runtime, RuntimeSettings, StageLimits, WasmStage,
};
use postrider::stage::handler::{Call, CallContext, Handled, Logs, Outcome, StageHandler as _};
use postrider::stage::recording::Recorder;
use postrider::stage::state::{BatchState, LaneCache};
use postrider::store::memory::MemoryState;

/// A case: an event, and what the stage finds when it gets it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    event: CaseEvent,
    /// Keys and values of the stage's state before.
    #[serde(default)]
    pub(super) state: BTreeMap<String, Value>,
    /// Settings.
    #[serde(default)]
    pub(super) config: BTreeMap<String, String>,
    #[serde(default = "first")]
    attempt: u32,
    /// What the stage's clock shows, milliseconds since 1970-01-01 UTC.
    now_ms: Option<u64>,
}

fn first() -> u32 {
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
    /// From a whole case, or from an event alone.
    pub(crate) fn parse(said: Value) -> Result<Self> {
        let whole = if said.get("event").is_some() { said } else { json!({ "event": said }) };
        serde_json::from_value(whole).context(
            "expected an event {\"type\", \"subject\"?, \"data\"?, …}, or a case {\"event\", \"state\"?, \"config\"?, \"attempt\"?, \"now_ms\"?}",
        )
    }

    /// The event alone, happening now.
    pub(crate) fn event(&self) -> Event {
        self.envelope(SystemClock.now_ms()).event
    }

    fn envelope(&self, now_ms: u64) -> Envelope {
        let said = &self.event;
        // Data that is not JSON is written as a text.
        let data = match &said.data {
            Value::String(text) if !said.content_type.contains("json") => text.clone(),
            value => value.to_string(),
        };
        let event = Event {
            id: said.id.clone(),
            event_type: said.event_type.clone(),
            source: said.source.clone(),
            subject: said.subject.clone(),
            time_ms: said.time_ms.unwrap_or(now_ms),
            content_type: said.content_type.clone(),
            data: data.into(),
            attributes: said.attributes.clone().into_iter().collect(),
        };
        Envelope::first(event, None, u64::MAX)
    }
}

/// A plugin that is ready to be tried.
pub(super) struct Trial {
    pub(super) stage: WasmStage,
    limits: StageLimits,
}

impl Trial {
    /// Loads a plugin file.
    pub(super) async fn load(file: &Path, instances: InstancePolicy) -> Result<Self> {
        let limits = StageLimits::default();
        Ok(Self { stage: WasmStage::new(&load(file).await?, limits, instances), limits })
    }

    /// Runs the case `times` times, each on the same state. Gives what came of the first, and all
    /// durations.
    pub(super) async fn run(&self, case: &Case, now_ms: u64, times: u32) -> Tried {
        let before: BTreeMap<String, Bytes> =
            case.state.iter().map(|(key, value)| (key.clone(), value.to_string().into())).collect();
        let name: Arc<str> = self.stage.description().name.as_str().into();
        let now_ms = case.now_ms.unwrap_or(now_ms);
        let envelope = Arc::new(case.envelope(now_ms));
        let key = DeliveryKey { stage: Arc::clone(&name), event: envelope.key() };
        let logs = Logs::default();
        let context = CallContext {
            stage: Arc::clone(&name),
            attempt: case.attempt,
            idempotency_key: idempotency_key(&key),
            now_ms,
            trace_headers: Vec::new(),
            settings: Arc::new(case.config.clone().into_iter().collect()),
            logs: Some(logs.clone()),
            recorder: Recorder::default(),
        };
        let limits = self.limits.state_limits();
        let state =
            BatchState::new(name, Arc::new(MemoryState(before)), limits, LaneCache::placeholder());
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
        Tried { handled: first, logs: json!(lines), first_ms, durations_ms }
    }
}

/// What came of a trial.
pub(super) struct Tried {
    handled: Handled,
    pub(super) logs: Value,
    first_ms: f64,
    durations_ms: Vec<f64>,
}

impl Tried {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.handled.outcome, Outcome::Done(_))
    }

    /// What does not differ from run to run: the outcome and the state changes.
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

    /// Time and memory.
    pub(super) fn cost(&self) -> Value {
        let quantile =
            |share: f64| self.durations_ms[((self.durations_ms.len() - 1) as f64 * share) as usize];
        let duration = json!({ "first": self.first_ms, "p50": quantile(0.5), "p95": quantile(0.95), "calls": self.durations_ms.len() });
        json!({ "duration_ms": duration, "memory_bytes": self.handled.memory_bytes })
    }
}

/// Loads a plugin file; compiled code is kept in the user's cache, so that a large plugin is
/// compiled once.
pub(super) async fn load(file: &Path) -> Result<Linked> {
    let bytes =
        std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let cache_dir = std::env::home_dir().map(|home| home.join(".cache/postrider"));
    let runtime = Runtime::new(RuntimeSettings { cache_dir, ..RuntimeSettings::default() })?;
    runtime.load(bytes).await.with_context(|| format!("{} does not fit", file.display()))
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
            json!({ "trapped": { "kind": kind, "message": message, "backtrace": backtrace.as_ref().map(|text| text.lines().collect::<Vec<_>>()) } })
        }
        Outcome::LimitExceeded { limit, message } => {
            json!({ "limit": { "name": limit.code(), "message": message } })
        }
        Outcome::Unavailable(reason) => json!({ "unavailable": reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_alone_is_a_case() {
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
