//! SDK for Postrider stages in Rust: implement [`Stage`], call [`export!`], and build for WebAssembly.
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
//! A stage accesses the host only through [`Context`], so unit tests run natively, without
//! WebAssembly. See [`testing`].

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics"), feature = "allocator"))]
mod allocator;
mod event_types;
// The bindings only serve a guest: a host that links a stage natively does without their generator.
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod testing;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use guest::{Adapter, bindings};

pub use event_types::EventTypes;

/// A stage of the pipeline.
pub trait Stage {
    /// Describes the stage. Must be pure; the host calls it once per plugin file.
    fn describe() -> Description;
    /// Handles one event.
    ///
    /// On success the host commits the state writes and the returned events atomically; on failure
    /// it discards both. A call may run more than once per event, but commits once. A negative
    /// business decision, such as a declined payment, is an event and not a failure.
    ///
    /// # Errors
    /// A [`Failure`] if the stage cannot decide; it says whether a retry may succeed.
    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure>;
}

/// Exports a [`Stage`] as the component's handler. On targets other than WebAssembly it expands to
/// nothing, so the stage can be used as a library.
#[macro_export]
macro_rules! export {
    ($stage:ident) => {
        #[cfg(target_arch = "wasm32")]
        type PostriderStageAdapter = $crate::Adapter<$stage>;
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export_stage!(PostriderStageAdapter with_types_in $crate::bindings);
    };
}

/// The description of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Default name of the stage: `[a-z][a-z0-9-]{0,39}`.
    pub name: String,
    /// Version of the stage's logic.
    pub version: String,
    /// One-line summary.
    pub summary: String,
    /// Event types, or AMQP topic patterns, that the stage consumes.
    pub consumes: Vec<String>,
    /// Event types that the stage may emit; patterns are not allowed.
    pub emits: Vec<String>,
    /// JSON Schema of each setting, by name.
    pub settings: BTreeMap<String, Value>,
}

impl Description {
    /// A description without consumed or emitted event types.
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            summary: summary.into(),
            ..Self::default()
        }
    }

    /// Sets the event types, or AMQP topic patterns, that the stage consumes.
    #[must_use]
    pub fn consumes(mut self, types: &[&str]) -> Self {
        self.consumes = types.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds event types that the operator can choose: those of the setting, by default `types`'
    /// own. The host consumes what the setting says.
    #[must_use]
    pub fn consumes_setting(mut self, types: &EventTypes) -> Self {
        let default = types.default.join(", ");
        let schema = json!({
            "type": "string",
            "format": "event-types",
            "default": default,
            "description": types.summary,
        });
        let new = types.default.iter().filter(|one| !self.consumes.iter().any(|all| all == *one));
        let new: Vec<String> = new.map(ToString::to_string).collect();
        self.consumes.extend(new);
        self.setting(types.setting, schema)
    }

    /// Adds the JSON Schema of a setting. Every setting reaches the stage as text.
    #[must_use]
    pub fn setting(mut self, name: &str, schema: Value) -> Self {
        self.settings.insert(name.into(), schema);
        self
    }

    /// The attributes of the contract's description.
    pub fn attributes(&self) -> Vec<(String, String)> {
        if self.settings.is_empty() {
            return Vec::new();
        }
        let schema = json!({ "type": "object", "properties": self.settings });
        vec![("settingsschema".to_owned(), schema.to_string())]
    }

    /// Sets the event types that the stage may emit.
    #[must_use]
    pub fn emits(mut self, types: &[&str]) -> Self {
        self.emits = types.iter().map(ToString::to_string).collect();
        self
    }
}

/// A CloudEvents 1.0 event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Event id, unique per source. A redelivered event has the same id.
    pub id: String,
    /// Event type, such as `order.created`.
    pub event_type: String,
    /// URI of the producer.
    pub source: String,
    /// The order id.
    pub subject: String,
    /// Time of the event, in milliseconds since 1970-01-01 UTC.
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

    /// Deserializes the JSON payload.
    ///
    /// # Errors
    /// A permanent failure `bad-data` if the payload does not match.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.data)
            .map_err(|error| Failure::reject("bad-data", &format!("{}: {error}", self.event_type)))
    }

    /// The JSON payload, an object. Numbers keep every digit.
    ///
    /// # Errors
    /// A permanent failure `bad-data` if the payload is anything else.
    pub fn object(&self) -> Result<Value, Failure> {
        self.data::<Map<String, Value>>().map(Value::Object)
    }
}

/// An event emitted by a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emit {
    /// One of the types in [`Description::emits`].
    pub event_type: String,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: Vec<u8>,
    /// Defaults to the subject of the incoming event.
    pub subject: Option<String>,
    /// Minimum delay before delivery, in milliseconds.
    pub delay_ms: u32,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Emit {
    /// An event with a JSON payload and the subject of the incoming event.
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

/// A failure of a stage to decide about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whether the host retries the event; otherwise it is dead-lettered immediately.
    pub retryable: bool,
    /// Short, stable code by which dead letters are grouped.
    pub code: String,
    /// Message for operators.
    pub message: String,
    /// Minimum delay before the retry, in milliseconds. Defaults to the stage's retry policy.
    pub retry_after_ms: Option<u32>,
}

impl Failure {
    /// A retryable failure.
    pub fn retry(code: &str, message: &str) -> Self {
        Self { retryable: true, code: code.into(), message: message.into(), retry_after_ms: None }
    }

    /// A permanent failure: the event is dead-lettered without a retry.
    pub fn reject(code: &str, message: &str) -> Self {
        Self { retryable: false, ..Self::retry(code, message) }
    }

    /// The stage has no use for events of this type: a permanent failure `unhandled-event`. An
    /// operator has routed a type to the stage that its settings do not name.
    pub fn unhandled(event: &Event) -> Self {
        let message = format!(
            "the stage does not handle `{}`: change its `consumes`, or the setting that should \
             name the type",
            event.event_type
        );
        Self::reject("unhandled-event", &message)
    }
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The host functions available to a call. The sandbox and [`testing::MemoryHost`] implement it.
pub trait Host {
    /// The name of the stage in the operator's configuration.
    fn stage(&self) -> String;
    /// Number of the attempt, starting at 1.
    fn attempt(&self) -> u32;
    /// A key that is the same for every attempt and unchanged replay of this event in this stage.
    fn idempotency_key(&self) -> String;
    /// Start time of the attempt, in milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
    /// Time left for the attempt, in milliseconds.
    fn remaining_ms(&self) -> u32;
    /// Reads a value of the stage's state.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Writes a value; committed if the call succeeds.
    fn set(&mut self, key: &str, value: &[u8]);
    /// Removes a key; committed if the call succeeds.
    fn remove(&mut self, key: &str);
    /// Lists at most `limit` keys that start with `prefix` and sort after `after`, in byte order.
    fn list_keys(&self, prefix: &str, after: &str, limit: u32) -> Vec<String>;
    /// Reads a setting or secret of the stage.
    fn config(&self, key: &str) -> Option<String>;
    /// Writes a line to the host's log.
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]);
}

/// Runs a stage on an event natively.
pub fn run<S: Stage>(host: &mut dyn Host, event: &Event) -> Result<Vec<Emit>, Failure> {
    S::handle(&mut Context(host), event)
}

/// The context of a call: state, settings and logging.
pub struct Context<'a>(pub(crate) &'a mut dyn Host);

impl Context<'_> {
    /// The host, for functions without a shorthand here.
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

    /// Reads and parses a setting.
    ///
    /// # Errors
    /// A permanent failure `bad-setting` if the value does not parse.
    pub fn setting<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        let parse = |text: String| {
            text.parse().map_err(|_| {
                Failure::reject("bad-setting", &format!("invalid setting `{key}`: `{text}`"))
            })
        };
        self.0.config(key).map(parse).transpose()
    }

    /// Whether the event is of the types that the operator set, or of the default ones.
    pub fn is_one_of(&self, types: &EventTypes, event: &Event) -> bool {
        types.include(self.0.config(types.setting).as_deref(), &event.event_type)
    }

    /// Reads a JSON value of the state.
    ///
    /// # Errors
    /// A permanent failure `bad-state` if the value does not match.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|error| {
                Failure::reject("bad-state", &format!("invalid state under `{key}`: {error}"))
            })
        };
        self.0.get(key).map(parse).transpose()
    }

    /// Writes a JSON value to the state; committed if the call succeeds.
    pub fn set(&mut self, key: &str, value: &impl Serialize) {
        self.0.set(key, &to_json(value));
    }

    /// Removes a key from the state; committed if the call succeeds.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Logs at level info.
    pub fn info(&self, message: &str) {
        self.0.log(Level::Info, message, &[]);
    }

    /// Logs at level warn.
    pub fn warn(&self, message: &str) {
        self.0.log(Level::Warn, message, &[]);
    }
}
