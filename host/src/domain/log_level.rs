//! How much is logged, from errors only to every detail.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A level of log lines: lines of this level, and of those before it in the list, are logged.
///
/// ```
/// use postrider::LogLevel;
///
/// assert!(LogLevel::Debug > LogLevel::Info);
/// assert_eq!("debug".parse(), Ok(LogLevel::Debug));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures that need an operator.
    Error = 1,
    /// Failures that are retried.
    Warn,
    /// What happens in ordinary operation.
    Info,
    /// Each step, to find out what goes wrong.
    Debug,
    /// Every detail.
    Trace,
}

/// No level has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no log level: use error, warn, info, debug or trace")]
pub struct UnknownLevel(String);

impl LogLevel {
    /// All levels, the one with the fewest lines first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name: `error`, `warn`, `info`, `debug` or `trace`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

impl From<tracing::Level> for LogLevel {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::TRACE => Self::Trace,
        }
    }
}
