//! What a stage says about itself, and how a call of it ends.

use serde::Serialize;

use crate::stage::circuit_breaker::Health;

/// What a stage says about itself.
///
/// ```
/// use postrider::Description;
///
/// let description = Description::new("fraud", "1.0.0", "Scores subjects")
///     .consumes(["order.created"])
///     .emits(["fraud.scored"]);
/// assert_eq!(description.emits, ["fraud.scored"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// Default name of the stage.
    pub name: String,
    /// Version of the stage's logic.
    pub version: String,
    /// One line for people.
    pub summary: String,
    /// Event types or AMQP topic patterns.
    pub consumes: Vec<String>,
    /// Event types that it may emit.
    pub emits: Vec<String>,
    /// Further properties by name; the host knows none today.
    pub attributes: Vec<(String, String)>,
}

impl Description {
    /// A stage that consumes and emits nothing yet.
    pub fn new(
        name: impl Into<String>,
        version: impl Into<String>,
        summary: impl Into<String>,
    ) -> Self {
        let (consumes, emits, attributes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            name: name.into(),
            version: version.into(),
            summary: summary.into(),
            consumes,
            emits,
            attributes,
        }
    }

    /// Adds event types or AMQP topic patterns that the stage consumes.
    #[must_use]
    pub fn consumes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.consumes.extend(patterns.into_iter().map(|pattern| pattern.as_ref().to_owned()));
        self
    }

    /// Adds event types that the stage may emit.
    #[must_use]
    pub fn emits(mut self, event_types: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.emits.extend(event_types.into_iter().map(|event_type| event_type.as_ref().to_owned()));
        self
    }
}

/// An event that a stage emits.
///
/// ```
/// use postrider::Emitted;
///
/// let event = Emitted::json("fraud.scored", &serde_json::json!({ "score": 7 }));
/// assert_eq!(event.content_type, "application/json");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Emitted {
    /// One of the types that the description declares.
    pub event_type: String,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: bytes::Bytes,
    /// None: the subject of the incoming event.
    pub subject: Option<String>,
    /// Milliseconds from the decision until it falls due.
    pub delay_ms: u32,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Emitted {
    /// An event about the subject of the incoming one, due immediately, without attributes.
    pub fn new(
        event_type: impl Into<String>,
        content_type: impl Into<String>,
        data: impl Into<bytes::Bytes>,
    ) -> Self {
        let (event_type, content_type, data) =
            (event_type.into(), content_type.into(), data.into());
        Self { event_type, content_type, data, subject: None, delay_ms: 0, attributes: Vec::new() }
    }

    /// Like [`Emitted::new`], with a JSON payload.
    pub fn json(event_type: impl Into<String>, data: &serde_json::Value) -> Self {
        Self::new(event_type, "application/json", data.to_string())
    }
}

/// An error that a stage returns.
///
/// ```
/// use postrider::{Failure, NativeError};
///
/// let error: NativeError = Failure::retry("bank-down", "the bank does not answer").into();
/// assert_eq!(error.to_string(), "bank-down: the bank does not answer");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failure {
    /// Whether further attempts may succeed; otherwise the message is dead-lettered immediately.
    pub retryable: bool,
    /// Short and stable; dead letters are grouped by it.
    pub code: String,
    /// For people.
    pub message: String,
    /// Shortest wait before the next attempt.
    pub retry_after_ms: Option<u32>,
}

impl Failure {
    /// An error that a further attempt may resolve.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: true, code: code.into(), message: message.into(), retry_after_ms: None }
    }

    /// An error that no further attempt resolves.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retry(code, message) }
    }
}

/// A limit of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Linear memory and tables, summed over the instance.
    Memory,
    /// Bytes of all returned events, or passed to one host call.
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

/// How the external calls of an attempt went: the last one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExternalCalls {
    /// There was none, or this host refused it.
    #[default]
    None,
    /// The service answered.
    Answered,
    /// The service could not be reached, did not answer, or answered with a status of 500 or more.
    Failed,
}

/// How a call ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// The stage succeeded: its events and writes are to be committed.
    Done(Vec<Emitted>),
    /// The stage returned an error.
    Failed(Failure),
    /// The guest trapped or ran out of time: `kind` is short and stable (`unreachable`, `timeout`,
    /// `stack-overflow`).
    Trapped {
        /// The kind of trap.
        kind: String,
        /// For people; includes the guest's panic message, if any.
        message: String,
        /// Symbolised guest backtrace, one frame a line.
        backtrace: Option<String>,
    },
    /// The guest exceeded a limit of the host.
    LimitExceeded {
        /// The limit.
        limit: Limit,
        /// The actual value and the allowed one.
        message: String,
    },
    /// The host could not serve the call (store unavailable, no free instance). This does not count
    /// as an attempt.
    Unavailable(String),
}

impl Outcome {
    /// Whether the guest trapped or ran out of time.
    pub fn is_trap(&self) -> bool {
        matches!(self, Self::Trapped { .. })
    }

    /// Whether a further attempt may succeed, if the retry policy allows one.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.retryable,
            Self::Trapped { .. } | Self::Unavailable(_) => true,
            Self::Done(_) | Self::LimitExceeded { .. } => false,
        }
    }

    /// The shortest wait before the next attempt that the stage asks for.
    pub fn retry_after_ms(&self) -> u64 {
        match self {
            Self::Failed(failure) => u64::from(failure.retry_after_ms.unwrap_or(0)),
            _ => 0,
        }
    }

    /// What the outcome says about the stage's dependencies, given how its external calls went and
    /// which codes of failures mean that a dependency is down.
    pub fn health(
        &self,
        external: ExternalCalls,
        is_unavailable: impl FnOnce(&str) -> bool,
    ) -> Health {
        match (self, external) {
            (Self::Unavailable(_), _) => Health::Unknown,
            (Self::Done(_), _) => Health::Good,
            (_, ExternalCalls::Failed) => Health::Unavailable,
            (Self::Failed(failure), _) if is_unavailable(&failure.code) => Health::Unavailable,
            (Self::Trapped { kind, .. }, _) if kind == "timeout" => Health::TimedOut,
            (_, ExternalCalls::Answered) => Health::Good,
            (_, ExternalCalls::None) => Health::Unknown,
        }
    }

    /// Why the call failed, in one line; empty when it did not.
    pub fn error(&self) -> String {
        match self {
            Self::Done(_) => String::new(),
            Self::Failed(Failure { code, message, .. }) => format!("{code}: {message}"),
            Self::Trapped { kind, message, .. } => format!("trap:{kind}: {message}"),
            Self::LimitExceeded { limit, message } => format!("{}: {message}", limit.code()),
            Self::Unavailable(why) => why.clone(),
        }
    }
}
