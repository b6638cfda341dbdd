//! What an operator sets for a stage: its routes, retries and expiry.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// When and how often a failed try is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Tries in all; 1 means no retry.
    pub max_attempts: u32,
    /// Wait before the second try.
    pub initial_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
    /// Growth from one wait to the next.
    pub multiplier: f64,
    /// Share of the wait that is random, 0 to 1: a wait `w` becomes `w · (1 − jitter … 1)`.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 5, initial_ms: 500, max_ms: 60_000, multiplier: 2.0, jitter: 0.5 }
    }
}

impl RetryPolicy {
    /// Wait after failed try number `attempt`, given a random number in `[0, 1)`.
    pub fn wait_ms(&self, attempt: u32, random: f64) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_ms as f64 * self.multiplier.powi(exponent);
        (grown.min(self.max_ms as f64) * (1.0 - self.jitter * random)) as u64
    }
}

/// What the decision needs to know about a stage.
#[derive(Debug, Clone)]
pub struct StagePolicy {
    /// Name under which the operator runs it.
    pub name: Arc<str>,
    /// CloudEvents source of what it emits.
    pub source: String,
    /// Topic patterns that reach it.
    pub consumes: Vec<String>,
    /// Event types that it declared.
    pub emits: Vec<String>,
    /// Its retries.
    pub retry: RetryPolicy,
    /// Longest chain of events.
    pub hops_max: u32,
    /// Life of an event after it falls due.
    pub expiry_ms: u64,
}
