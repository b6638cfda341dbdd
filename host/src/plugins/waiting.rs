//! What a refused plugin file waits for. Every refusal has a cause, and ends with it.

use std::fmt;
use std::time::Duration;

/// Wait before the first retry of what may pass; it doubles with each.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_mins(2);

/// What has to change before a refused file serves.
#[cfg_attr(not(feature = "wasm"), allow(dead_code, reason = "only files wait"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingFor {
    /// The content of the file.
    Content,
    /// The file, its folder or their permissions.
    ReadableFile,
    /// Its signature: the name of that file.
    Signature(String),
    /// The configuration, which is read at the start: what it lacks.
    Configuration(String),
    /// What serves the stage now.
    StageName {
        /// The stage.
        stage: String,
        /// Its plugin file, or a native stage.
        owner: String,
    },
    /// The broker, where the stage's queue is declared.
    Broker,
    /// Nothing known: the same content may load at another time.
    AnotherTry,
}

impl WaitingFor {
    /// When it is tried again although nothing seems to have changed; none: nothing else can help.
    /// `failures` is the number of failures in a row, at least one.
    #[cfg_attr(not(feature = "wasm"), allow(dead_code, reason = "only files wait"))]
    pub fn retry_after(&self, failures: u32) -> Option<Duration> {
        match self {
            Self::Content | Self::Configuration(_) => None,
            // A look at the file notices most causes; a mount or a server may come back unnoticed.
            Self::ReadableFile | Self::Signature(_) | Self::StageName { .. } | Self::Broker => {
                Some(RETRY_MIN)
            }
            Self::AnotherTry => {
                let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
                Some(RETRY_MIN.saturating_mul(doubled).min(RETRY_MAX))
            }
        }
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content => formatter.write_str("other content of the file"),
            Self::ReadableFile => write!(
                formatter,
                "a file that can be read; it is tried again every {} s",
                RETRY_MIN.as_secs()
            ),
            Self::Signature(file) => {
                write!(formatter, "a valid signature in {file}, or other content of the file")
            }
            Self::Configuration(lacks) => write!(
                formatter,
                "{lacks}, which is read when the host starts, or other content of the file"
            ),
            Self::StageName { stage, owner } => write!(
                formatter,
                "{owner} to stop serving stage `{stage}`, or another stage name of this file"
            ),
            Self::Broker => {
                write!(formatter, "the broker; it is tried again every {} s", RETRY_MIN.as_secs())
            }
            Self::AnotherTry => write!(
                formatter,
                "another try, at most {} s after the last, or other content of the file",
                RETRY_MAX.as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_ever_more_rarely() {
        let waits = |what: &WaitingFor| [1, 2, 40].map(|failures| what.retry_after(failures));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(waits(&WaitingFor::AnotherTry), [seconds(2), seconds(4), seconds(120)]);
        assert_eq!(waits(&WaitingFor::Broker), [seconds(2); 3]);
        assert_eq!(waits(&WaitingFor::Content), [None; 3]);
    }
}
