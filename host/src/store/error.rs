//! Why a store did not answer.

use std::time::Duration;

/// Why the store did not answer.
///
/// ```
/// use postrider::StoreError;
///
/// fn advice(error: &StoreError) -> &'static str {
///     if error.is_transient() { "try again later" } else { "the call itself has to change" }
/// }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, is full, read-only or shutting down: retry later; this counts as no
    /// attempt.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Other hosts change the same rows all the time: retry later; this counts as no attempt.
    #[error("the store is busy: too many conflicts with other hosts")]
    Contended,
    /// The state of one stage cannot be used, because it was moved or a permission is missing: retry
    /// later; this counts as no attempt, and other stages go on.
    #[error("the state of the stage `{stage}` cannot be used: {problem}")]
    StateUnavailable {
        /// The stage.
        stage: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The database refuses the values: a retry cannot help.
    #[error("the store refuses the values ({code}): {message}")]
    Rejected {
        /// The database's own code.
        code: String,
        /// The database's own words.
        message: String,
    },
    /// What is stored is invalid: a bug, or another program's data.
    #[error("the store holds invalid data: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the operation may succeed when it is repeated later. Otherwise it is the operation, or
    /// the rows that it needs, that fail: others succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended | Self::StateUnavailable { .. } => true,
            Self::Rejected { .. } | Self::Corrupt(_) => false,
        }
    }

    pub(super) fn closed() -> Self {
        Self::Unavailable("the store is closed".to_owned())
    }

    /// The writer panicked, or the host stopped it, between taking an operation and answering.
    pub(super) fn unanswered() -> Self {
        Self::Unavailable("the writer stopped before it answered; retry".to_owned())
    }

    /// `missing` (a reply, a connection) took longer than the limit.
    pub(super) fn timed_out(missing: &str, limit: Duration) -> Self {
        Self::Unavailable(format!("{missing} within {} ms", limit.as_millis()))
    }

    /// A statement that always returns a row returned none.
    pub(super) fn missing_row() -> Self {
        Self::Corrupt("a statement returned no row".to_owned())
    }
}
