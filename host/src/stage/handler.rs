//! The stage handler that a worker calls: a WebAssembly component or a Rust value of the embedder.
//!
//! A handler runs outside any transaction. It reads through a [`StateView`] and returns its writes
//! and events; the worker commits them together or not at all. A handler has no error type of its
//! own: every result is an [`Outcome`]. Bounds: the limits of the stage, for a component; none but
//! those of its state for a native stage.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::domain::event::{DeliveryKey, Envelope, Event, idempotency_key};
use crate::domain::spans::CallSpans;
use crate::domain::trace_context::TraceContext;
use crate::stage::delivery_log::DeliveryLog;
use crate::stage::recording::Recorder;
use crate::stage::settings::Settings;
use crate::stage::state::{StateError, StateView};
use crate::stage::state_writes::StateWrites;

pub use crate::stage::outcome::{Description, Emitted, ExternalCalls, Failure, Limit, Outcome};

/// A line that a stage logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogLine {
    /// `trace` to `error`.
    pub level: &'static str,
    /// The message, without secrets.
    pub message: String,
    /// Structured fields by name.
    pub fields: Vec<(String, String)>,
}

/// Collects the log lines of a stage instead of writing them to the host's log.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<LogLine>>>);

impl Logs {
    /// Adds a line.
    pub fn push(&self, line: LogLine) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Removes and returns all lines so far.
    pub fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The context of one attempt.
///
/// ```
/// use postrider::{Emitted, NativeContext};
///
/// /// Repeats the request with the same key on every attempt, so the gateway charges once.
/// fn charge(cx: &NativeContext) -> Emitted {
///     let currency = cx.call.setting("currency").unwrap_or("EUR");
///     let charge = serde_json::json!({ "key": cx.call.idempotency_key, "currency": currency });
///     Emitted::json("payment.requested", &charge)
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallContext {
    /// The name under which the operator runs the stage.
    pub stage: Arc<str>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// See [`crate::domain::event::idempotency_key`].
    pub idempotency_key: String,
    /// The clock when the attempt began, milliseconds since 1970-01-01 UTC; constant within an
    /// attempt.
    pub now_ms: u64,
    /// Its place in a trace; none: it has none.
    pub(crate) trace: Option<TraceContext>,
    /// The operator's settings for the stage, secrets among them; [`CallContext::setting`] reads
    /// one.
    pub settings: Arc<Settings>,
    /// Collects the spans of its HTTP calls; none: they are not recorded.
    pub(crate) calls: Option<CallSpans>,
    /// Receives its log lines; none: the host's log does.
    pub logs: Option<Logs>,
    /// What its lines in the host's log belong to; none: no delivery.
    pub(crate) log: Option<Arc<DeliveryLog>>,
    /// Records the answers that the call gets.
    pub recorder: Recorder,
}

impl CallContext {
    /// The context of an attempt without trace headers and settings; its reads are not recorded.
    pub fn new(delivery: &DeliveryKey, attempt: u32, now_ms: u64) -> Self {
        Self {
            stage: Arc::clone(&delivery.stage),
            attempt,
            idempotency_key: idempotency_key(delivery),
            now_ms,
            trace: None,
            settings: Arc::default(),
            calls: None,
            logs: None,
            log: None,
            recorder: Recorder::default(),
        }
    }

    /// The same, as a part of a trace.
    #[must_use]
    #[doc(hidden)]
    pub fn traced(self, trace: TraceContext) -> Self {
        Self { trace: Some(trace), ..self }
    }

    /// W3C trace headers for calls of the stage; none if the attempt has no place in a trace.
    ///
    /// ```
    /// fn mark(cx: &postrider::NativeContext, headers: &mut Vec<(String, String)>) {
    ///     headers.extend(cx.call.trace_headers());
    /// }
    /// ```
    pub fn trace_headers(&self) -> Vec<(String, String)> {
        self.trace.as_ref().map(TraceContext::headers).unwrap_or_default()
    }

    /// The operator's setting under `key`. It is recorded unless it is a secret.
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
    /// The attempt.
    pub context: CallContext,
    /// The stage's state as this call sees it.
    pub state: StateView,
}

/// The result of a call.
pub struct Handled {
    /// How the call ended.
    pub outcome: Outcome,
    /// State writes; only meaningful with [`Outcome::Done`].
    pub writes: StateWrites,
    /// Time spent in the stage.
    pub duration: Duration,
    /// Bytes of the guest's linear memories and tables after the call; 0 for a native stage.
    pub memory_bytes: u64,
    /// How its external calls went; a native stage makes its own.
    pub external: ExternalCalls,
}

impl Handled {
    /// A call that did not run.
    pub(crate) fn nothing() -> Self {
        Self {
            outcome: Outcome::Unavailable("not called".to_owned()),
            writes: StateWrites::new(),
            duration: Duration::ZERO,
            memory_bytes: 0,
            external: ExternalCalls::None,
        }
    }
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
    /// Drops warm instances that have been idle for too long; the host calls it every second.
    fn drop_idle_instances(&self) {}
}

/// A stage that is a Rust value of the embedder's program: the plugin contract without a sandbox.
///
/// ```
/// use async_trait::async_trait;
/// use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
///
/// struct Greet;
///
/// #[async_trait]
/// impl NativeStage for Greet {
///     fn describe(&self) -> Description {
///         Description::new("greet", "1.0.0", "Greets the customer of each new subject")
///             .consumes(["order.created"])
///             .emits(["customer.greeted"])
///     }
///
///     async fn handle(
///         &self,
///         _: &mut NativeContext,
///         event: &Event,
///     ) -> Result<Vec<Emitted>, NativeError> {
///         let greeting = serde_json::json!({ "subject": event.subject });
///         Ok(vec![Emitted::json("customer.greeted", &greeting)])
///     }
/// }
/// ```
#[async_trait]
pub trait NativeStage: Send + Sync + 'static {
    /// Called once, when the stage is registered.
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
///
/// ```
/// use postrider::{NativeContext, NativeError};
///
/// /// Counts the calls that succeed.
/// async fn count(cx: &mut NativeContext) -> Result<(), NativeError> {
///     let calls = cx.state.get("calls").await?.map_or(0, |bytes| bytes.len());
///     cx.state.set("calls".to_owned(), vec![b'.'; calls + 1].into())?;
///     Ok(())
/// }
/// ```
#[non_exhaustive]
pub struct NativeContext {
    /// The attempt.
    pub call: CallContext,
    /// The stage's state.
    pub state: StateView,
}

/// Why a call of a native stage failed.
///
/// ```
/// use postrider::{Failure, NativeError};
///
/// /// `?` turns a failure into the error of a stage.
/// fn check(total: f64) -> Result<(), NativeError> {
///     if total < 0.0 {
///         Err(Failure::reject("negative-total", "the total is below zero"))?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// An error of the stage's own.
    #[error("{}: {}", .0.code, .0.message)]
    Failure(Failure),
    /// State could not be read, or a limit was exceeded.
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
    /// A handler that calls `stage`.
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
        let (settings, log) = (Arc::clone(&call.context.settings), call.context.log.clone());
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
            outcome: settings.guard(outcome, &writes, log.as_deref()),
            writes,
            duration: began.elapsed(),
            memory_bytes: 0,
            external: ExternalCalls::None,
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
