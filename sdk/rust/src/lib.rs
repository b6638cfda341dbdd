//! Write a Postrider stage in Rust: implement [`Stage`], call [`export!`], build for WebAssembly.
//!
//! ```
//! use postrider_stage::{Context, Description, Emit, Event, Failure, Stage};
//!
//! struct Greeter;
//!
//! impl Stage for Greeter {
//!     fn describe() -> Description {
//!         Description::new("greeter", "1.0.0", "Greets every order").consumes(&["order.created"]).emits(&["order.greeted"])
//!     }
//!
//!     fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
//!         cx.info(&format!("hello, order {}", event.subject));
//!         Ok(vec![Emit::json("order.greeted", &serde_json::json!({ "order_id": event.subject }))])
//!     }
//! }
//!
//! # fn main() {
//! let mut host = postrider_stage::testing::MemoryHost::default();
//! let events = host.handle::<Greeter>(&Event::json("order.created", "7", &serde_json::json!({}))).unwrap();
//! assert_eq!(events[0].event_type, "order.greeted");
//! # }
//! ```
//!
//! A stage's logic sees the host only through [`Context`], so it is tested natively, without
//! WebAssembly: see [`testing`].

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

// The bindings only serve a guest: a host that links a stage natively does without their generator.
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod testing;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use guest::{Adapter, bindings};

/// A stage of the pipeline.
pub trait Stage {
    /// Asked once per file. Must be pure.
    fn describe() -> Description;
    /// Decides about one event. Success commits the state writes and the returned events together;
    /// a failure discards both. May run more than once per event, commits once. A business "no" is
    /// an event, not a failure.
    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure>;
}

/// Makes a [`Stage`] the component's handler. Elsewhere than in WebAssembly it does nothing: the
/// stage is a library there.
#[macro_export]
macro_rules! export {
    ($stage:ident) => {
        #[cfg(target_arch = "wasm32")]
        type PostriderStageAdapter = $crate::Adapter<$stage>;
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export_stage!(PostriderStageAdapter with_types_in $crate::bindings);
    };
}

/// What a stage says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Default name of the stage: `[a-z][a-z0-9-]{0,39}`.
    pub name: String,
    /// Version of its logic.
    pub version: String,
    /// One line for people.
    pub summary: String,
    /// Event types or AMQP topic patterns.
    pub consumes: Vec<String>,
    /// Exact event types.
    pub emits: Vec<String>,
}

impl Description {
    /// A description that consumes and emits nothing yet.
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            summary: summary.into(),
            ..Self::default()
        }
    }

    /// Event types or AMQP topic patterns.
    #[must_use]
    pub fn consumes(mut self, types: &[&str]) -> Self {
        self.consumes = types.iter().map(ToString::to_string).collect();
        self
    }

    /// Exact event types.
    #[must_use]
    pub fn emits(mut self, types: &[&str]) -> Self {
        self.emits = types.iter().map(ToString::to_string).collect();
        self
    }
}

/// An event, as CloudEvents 1.0 has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The event delivered again has the same id.
    pub id: String,
    /// For example `order.created`.
    pub event_type: String,
    /// Who produced it.
    pub source: String,
    /// The order id.
    pub subject: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: Vec<u8>,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    /// An event with a JSON payload, for tests.
    pub fn json(event_type: &str, subject: &str, data: &impl Serialize) -> Self {
        Self {
            id: format!("{event_type}-{subject}"),
            event_type: event_type.into(),
            source: "/test".into(),
            subject: subject.into(),
            content_type: "application/json".into(),
            data: to_json(data),
            ..Self::default()
        }
    }

    /// The payload as JSON; data that does not fit is a failure that no retry can mend.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.data)
            .map_err(|error| Failure::reject("bad-data", &format!("{}: {error}", self.event_type)))
    }
}

/// An event that a stage wants sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emit {
    /// One of the types that the description declares.
    pub event_type: String,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: Vec<u8>,
    /// None: the subject of the incoming event.
    pub subject: Option<String>,
    /// Deliver no earlier than this much later.
    pub delay_ms: u32,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Emit {
    /// An event with a JSON payload about the subject of the incoming event.
    pub fn json(event_type: &str, data: &impl Serialize) -> Self {
        Self {
            event_type: event_type.into(),
            content_type: "application/json".into(),
            data: to_json(data),
            ..Self::default()
        }
    }

    /// The payload as JSON, for tests.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap_or(Value::Null)
    }
}

fn to_json(data: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(data).expect("a payload with string keys is JSON")
}

/// The stage could not decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Try again later, or dead-letter at once.
    pub retryable: bool,
    /// Short and stable: dead letters are grouped by it.
    pub code: String,
    /// For people.
    pub message: String,
    /// Wait at least this long.
    pub retry_after_ms: Option<u32>,
}

impl Failure {
    /// Try again later.
    pub fn retry(code: &str, message: &str) -> Self {
        Self { retryable: true, code: code.into(), message: message.into(), retry_after_ms: None }
    }

    /// A person must look.
    pub fn reject(code: &str, message: &str) -> Self {
        Self { retryable: false, ..Self::retry(code, message) }
    }
}

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// What the host offers to a call. Implemented by the sandbox and by [`testing::MemoryHost`].
pub trait Host {
    /// The name under which the operator runs this stage.
    fn stage(&self) -> String;
    /// 1 on the first try.
    fn attempt(&self) -> u32;
    /// The same on every try and replay of this event in this stage.
    fn idempotency_key(&self) -> String;
    /// Wall clock when this try began, milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
    /// Time left for this try.
    fn remaining_ms(&self) -> u32;
    /// The value under a key.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Writes a value when the call succeeds.
    fn set(&mut self, key: &str, value: &[u8]);
    /// Removes a key when the call succeeds.
    fn remove(&mut self, key: &str);
    /// Keys with a prefix after a key.
    fn list_keys(&self, prefix: &str, after: &str, limit: u32) -> Vec<String>;
    /// The operator's setting.
    fn config(&self, key: &str) -> Option<String>;
    /// A log line.
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]);
}

/// Runs a stage on an event: for hosts that run it as it is.
pub fn run<S: Stage>(host: &mut dyn Host, event: &Event) -> Result<Vec<Emit>, Failure> {
    S::handle(&mut Context(host), event)
}

/// The call in progress.
pub struct Context<'a>(pub(crate) &'a mut dyn Host);

impl Context<'_> {
    /// The host itself, for what has no shorthand here.
    pub fn host(&mut self) -> &mut dyn Host {
        self.0
    }

    /// See [`Host::idempotency_key`].
    pub fn idempotency_key(&self) -> String {
        self.0.idempotency_key()
    }

    /// See [`Host::now_ms`].
    pub fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    /// See [`Host::attempt`].
    pub fn attempt(&self) -> u32 {
        self.0.attempt()
    }

    /// The operator's setting under `key`, parsed; one that does not parse is a failure that says
    /// so.
    pub fn setting<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        let parse = |text: String| {
            text.parse().map_err(|_| {
                Failure::reject(
                    "bad-setting",
                    &format!("the setting `{key}` is unusable: `{text}`"),
                )
            })
        };
        self.0.config(key).map(parse).transpose()
    }

    /// The JSON value under a state key; one that does not fit is a failure that says so.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|error| {
                Failure::reject(
                    "bad-state",
                    &format!("the state under `{key}` is unusable: {error}"),
                )
            })
        };
        self.0.get(key).map(parse).transpose()
    }

    /// Writes a JSON value under a state key when the call succeeds.
    pub fn set(&mut self, key: &str, value: &impl Serialize) {
        self.0.set(key, &to_json(value));
    }

    /// Removes a state key when the call succeeds.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Logs for people who follow the pipeline.
    pub fn info(&self, message: &str) {
        self.0.log(Level::Info, message, &[]);
    }

    /// Logs what is odd but no failure.
    pub fn warn(&self, message: &str) {
        self.0.log(Level::Warn, message, &[]);
    }
}
