//! What a stage says about itself, and what comes of a try.

use serde::Serialize;

use crate::stage::circuit_breaker::Health;

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
    /// JsonBytes event types.
    pub emits: Vec<String>,
    /// Open for growth.
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

    /// Consumes these event types or AMQP topic patterns, too.
    #[must_use]
    pub fn consumes(mut self, patterns: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.consumes.extend(patterns.into_iter().map(|pattern| pattern.as_ref().to_owned()));
        self
    }

    /// May emit these event types, too.
    #[must_use]
    pub fn emits(mut self, event_types: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.emits.extend(event_types.into_iter().map(|event_type| event_type.as_ref().to_owned()));
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
    pub fn new(
        event_type: impl Into<String>,
        content_type: impl Into<String>,
        data: impl Into<bytes::Bytes>,
    ) -> Self {
        let (event_type, content_type, data) =
            (event_type.into(), content_type.into(), data.into());
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
    /// The guest trapped or ran out of time: `kind` is short and stable (`unreachable`, `timeout`,
    /// `stack-overflow`).
    Trapped {
        /// What kind of trap.
        kind: String,
        /// For people; carries the guest's panic text where there was one.
        message: String,
        /// Symbolised guest backtrace, one frame a line.
        backtrace: Option<String>,
    },
    /// The guest broke a limit of the host.
    LimitExceeded {
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
            Self::Done(_) | Self::LimitExceeded { .. } => false,
        }
    }

    /// What it says about what the stage depends on; nothing when the stage was not run. A trap is
    /// the plugin's fault, a time-out may be its dependency's.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Failed(Failure { retryable: true, .. }) => Some(Health::Failing),
            Self::Trapped { kind, .. } if kind == "timeout" => Some(Health::Failing),
            Self::Done(_) | Self::Failed(_) | Self::Trapped { .. } | Self::LimitExceeded { .. } => {
                Some(Health::Good)
            }
            Self::Unavailable(_) => None,
        }
    }
}
