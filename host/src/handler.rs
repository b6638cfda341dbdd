//! The stage handler: what a stage worker calls, whether the stage is a WebAssembly component or a Rust value of the embedder.
//!
//! A handler runs outside any transaction. It reads through a [`StateView`] and returns its writes and events; the worker commits
//! them together or not at all. A handler never returns an error of its own: all that can happen is an [`Outcome`].

pub mod sdk;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::breaker::Health;
use crate::event::{Envelope, Event};
use crate::recording::Recorder;
use crate::settings::Settings;
use crate::state::{StateError, StateView, StateWrites};

/// What a stage says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Default name of the stage.
    pub name: String,
    /// Version of the stage's logic.
    pub version: String,
    /// One line for people.
    pub summary: String,
    /// Event types or AMQP topic patterns.
    pub consumes: Vec<String>,
    /// Exact event types.
    pub emits: Vec<String>,
    /// Open for growth.
    pub attributes: Vec<(String, String)>,
}

impl Description {
    /// A stage that consumes and emits nothing yet.
    pub fn new(name: impl Into<String>, version: impl Into<String>, summary: impl Into<String>) -> Self {
        let (consumes, emits, attributes) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.into(), version: version.into(), summary: summary.into(), consumes, emits, attributes }
    }

    /// Consumes these event types or AMQP topic patterns, too.
    #[must_use]
    pub fn consumes<T: Into<String>>(mut self, patterns: impl IntoIterator<Item = T>) -> Self {
        self.consumes.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// May emit these event types, too.
    #[must_use]
    pub fn emits<T: Into<String>>(mut self, event_types: impl IntoIterator<Item = T>) -> Self {
        self.emits.extend(event_types.into_iter().map(Into::into));
        self
    }
}

/// An event that a stage wants sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emitted {
    /// One of the types that the description declares.
    pub event_type: String,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: bytes::Bytes,
    /// None: the subject of the incoming event.
    pub subject: Option<String>,
    /// Deliver no earlier than this much later.
    pub delay_ms: u32,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Emitted {
    /// About the subject of the incoming event, at once.
    pub fn new(event_type: impl Into<String>, content_type: impl Into<String>, data: impl Into<bytes::Bytes>) -> Self {
        let (event_type, content_type, data) = (event_type.into(), content_type.into(), data.into());
        Self { event_type, content_type, data, subject: None, delay_ms: 0, attributes: Vec::new() }
    }

    /// The same, with JSON as its payload.
    pub fn json(event_type: impl Into<String>, data: &serde_json::Value) -> Self {
        Self::new(event_type, "application/json", data.to_string())
    }
}

/// The stage could not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Try again later, or dead-letter at once.
    pub retryable: bool,
    /// Short and stable; dead letters are grouped by it.
    pub code: String,
    /// For people.
    pub message: String,
    /// Wait at least this long.
    pub retry_after_ms: Option<u32>,
}

impl Failure {
    /// Try again later.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: true, code: code.into(), message: message.into(), retry_after_ms: None }
    }

    /// A person must look.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retry(code, message) }
    }
}

/// A limit of the host that a guest broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Linear memory and tables, summed over the instance.
    Memory,
    /// Bytes of all returned events, or handed over in one host call.
    Output,
    /// Number of returned events.
    Events,
    /// Size of a state key.
    StateKey,
    /// Size of a state value.
    StateValue,
    /// Bytes of all state written by one call.
    StateBytes,
    /// Number of log lines, or their bytes.
    Log,
}

impl Limit {
    /// The name shown in dead letters: `limit:<name>`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Memory => "limit:memory",
            Self::Output => "limit:output",
            Self::Events => "limit:events",
            Self::StateKey => "limit:state-key",
            Self::StateValue => "limit:state-value",
            Self::StateBytes => "limit:state-bytes",
            Self::Log => "limit:log",
        }
    }
}

/// What came of one try.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The stage decided; its events and writes are to be committed.
    Done(Vec<Emitted>),
    /// The stage could not decide.
    Failed(Failure),
    /// The guest trapped or ran out of time: `kind` is short and stable (`unreachable`, `timeout`, `stack-overflow`).
    Trapped {
        /// What kind of trap.
        kind: String,
        /// For people; carries the guest's panic text where there was one.
        message: String,
        /// Symbolised guest backtrace, one frame a line.
        backtrace: Option<String>,
    },
    /// The guest broke a limit of the host.
    LimitBroken {
        /// Which.
        limit: Limit,
        /// What was seen and what is allowed.
        message: String,
    },
    /// The host could not serve the call (store lost, no instance free): not an attempt.
    Unavailable(String),
}

impl Outcome {
    /// Whether the guest trapped or ran out of time.
    pub fn is_trap(&self) -> bool {
        matches!(self, Self::Trapped { .. })
    }

    /// Whether another try may mend it, as long as there are tries left.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.retryable,
            Self::Trapped { .. } | Self::Unavailable(_) => true,
            Self::Done(_) | Self::LimitBroken { .. } => false,
        }
    }

    /// What it says about what the stage depends on; nothing when the stage was not run. A trap is the plugin's fault, a time-out may be
    /// its dependency's.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Failed(Failure { retryable: true, .. }) => Some(Health::Failing),
            Self::Trapped { kind, .. } if kind == "timeout" => Some(Health::Failing),
            Self::Done(_) | Self::Failed(_) | Self::Trapped { .. } | Self::LimitBroken { .. } => Some(Health::Good),
            Self::Unavailable(_) => None,
        }
    }
}

/// A line that a stage logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// `trace` to `error`.
    pub level: &'static str,
    /// The text.
    pub message: String,
    /// What goes with it.
    pub fields: Vec<(String, String)>,
}

/// Keeps what a stage logs for whoever runs it, instead of the host's log.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<LogLine>>>);

impl Logs {
    /// Adds a line.
    pub fn push(&self, line: LogLine) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Everything so far, and begins anew.
    pub fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One try's context.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The name under which the operator runs the stage.
    pub stage: Arc<str>,
    /// 1 on the first try.
    pub attempt: u32,
    /// See [`crate::event::idempotency_key`].
    pub idempotency_key: String,
    /// Wall clock when this try began; constant within a try.
    pub now_ms: u64,
    /// W3C trace headers for calls the stage makes itself.
    pub trace_headers: Vec<(String, String)>,
    /// The operator's settings for the stage, secrets among them; [`CallContext::setting`] reads one.
    pub settings: Arc<Settings>,
    /// Where its log lines go; none: to the host's log.
    pub logs: Option<Logs>,
    /// Notes what the call is given.
    pub recorder: Recorder,
}

impl CallContext {
    /// The operator's setting under `key`. What is no secret is recorded.
    pub fn setting(&self, key: &str) -> Option<&str> {
        let value = self.settings.get(key).map(String::as_str);
        if !self.settings.is_secret(key) {
            self.recorder.setting(key, value);
        }
        value
    }
}

/// One message for a handler.
pub struct Call {
    /// The event to decide about.
    pub envelope: Arc<Envelope>,
    /// About this try.
    pub context: CallContext,
    /// The stage's state as this message sees it.
    pub state: StateView,
}

/// What a handler gives back.
pub struct Handled {
    /// What came of it.
    pub outcome: Outcome,
    /// State writes; only meaningful with [`Outcome::Done`].
    pub writes: StateWrites,
    /// Time spent in the stage.
    pub duration: Duration,
    /// Linear memories and tables that the guest had in the end; 0 for a native stage.
    pub memory_bytes: u64,
}

/// A stage's logic. Two implementations: a WebAssembly component and [`Native`].
#[async_trait]
pub trait StageHandler: Send + Sync + 'static {
    /// What the stage said about itself when it was loaded.
    fn description(&self) -> &Description;
    /// SHA-256 of the plugin file in hex, or `native`.
    fn digest(&self) -> &str;
    /// Decides about one event.
    async fn handle(&self, call: Call) -> Handled;
}

/// A stage written as a Rust value inside the embedder's program: same contract, no sandbox.
#[async_trait]
pub trait NativeStage: Send + Sync + 'static {
    /// Asked once, when the stage is registered.
    fn describe(&self) -> Description;
    /// Decides about one event. The rules of the plugin contract hold: effects only through `cx` and the returned events.
    async fn handle(&self, cx: &mut NativeContext, event: &Event) -> Result<Vec<Emitted>, NativeError>;
}

/// What a native stage may use during a call.
pub struct NativeContext {
    /// About this try.
    pub call: CallContext,
    /// The stage's state.
    pub state: StateView,
}

/// Why a native stage did not decide.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// As a guest would return it.
    #[error("{}: {}", .0.code, .0.message)]
    Failure(Failure),
    /// State could not be read, or a limit was broken.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Runs a [`NativeStage`] as a [`StageHandler`].
pub struct Native<S> {
    stage: S,
    description: Description,
}

impl<S: NativeStage> Native<S> {
    /// Wraps `stage`.
    pub fn new(stage: S) -> Self {
        let description = stage.describe();
        Self { stage, description }
    }
}

#[async_trait]
impl<S: NativeStage> StageHandler for Native<S> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn digest(&self) -> &'static str {
        "native"
    }

    async fn handle(&self, call: Call) -> Handled {
        use futures::FutureExt as _;
        let began = std::time::Instant::now();
        let settings = Arc::clone(&call.context.settings);
        let mut cx = NativeContext { call: call.context, state: call.state };
        let run = std::panic::AssertUnwindSafe(self.stage.handle(&mut cx, &call.envelope.event)).catch_unwind().await;
        let outcome = match run {
            Ok(Ok(emitted)) => Outcome::Done(emitted),
            Ok(Err(NativeError::Failure(failure))) => Outcome::Failed(failure),
            Ok(Err(NativeError::State(error))) => error.into_outcome(),
            Err(panic) => Outcome::Trapped { kind: "panic".into(), message: panic_text(panic.as_ref()), backtrace: None },
        };
        let writes = cx.state.into_writes();
        Handled { outcome: settings.guard(outcome, &writes), writes, duration: began.elapsed(), memory_bytes: 0 }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
