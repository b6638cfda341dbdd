//! The stage handler: what a stage worker calls, whether the stage is a WebAssembly component or a
//! Rust value of the embedder.
//!
//! A handler runs outside any transaction. It reads through a [`StateView`] and returns its writes
//! and events; the worker commits them together or not at all. A handler never returns an error of
//! its own: all that can happen is an [`Outcome`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::domain::event::{Envelope, Event};
use crate::stage::recording::Recorder;
use crate::stage::settings::Settings;
use crate::stage::state::{StateError, StateView, StateWrites};

pub use crate::stage::outcome::{Description, Emitted, Failure, Limit, Outcome};

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
    /// See [`crate::domain::event::idempotency_key`].
    pub idempotency_key: String,
    /// Wall clock when this try began; constant within a try.
    pub now_ms: u64,
    /// W3C trace headers for calls the stage makes itself.
    pub trace_headers: Vec<(String, String)>,
    /// The operator's settings for the stage, secrets among them; [`CallContext::setting`] reads
    /// one.
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
    /// Decides about one event. The rules of the plugin contract hold: effects only through `cx`
    /// and the returned events.
    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError>;
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

impl From<Failure> for NativeError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
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
        let run = std::panic::AssertUnwindSafe(self.stage.handle(&mut cx, &call.envelope.event))
            .catch_unwind()
            .await;
        let outcome = match run {
            Ok(Ok(emitted)) => Outcome::Done(emitted),
            Ok(Err(NativeError::Failure(failure))) => Outcome::Failed(failure),
            Ok(Err(NativeError::State(error))) => error.into_outcome(),
            Err(panic) => Outcome::Trapped {
                kind: "panic".into(),
                message: panic_text(panic.as_ref()),
                backtrace: None,
            },
        };
        let writes = cx.state.into_writes();
        Handled {
            outcome: settings.guard(outcome, &writes),
            writes,
            duration: began.elapsed(),
            memory_bytes: 0,
        }
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
