//! The policy of a stage: routes, retries and expiry. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// When and how often a failed attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in total; 1 means no retry.
    pub max_attempts: u32,
    /// Wait before the second attempt, milliseconds.
    pub initial_ms: u64,
    /// Longest wait, milliseconds.
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
    /// Milliseconds to wait after failed attempt number `attempt`, given a random number in
    /// `[0, 1)`.
    pub fn wait_ms(&self, attempt: u32, random: f64) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial_ms as f64 * self.multiplier.powi(exponent);
        (grown.min(self.max_ms as f64) * (1.0 - self.jitter * random)) as u64
    }
}

/// What decisions about a stage's deliveries follow.
#[derive(Debug, Clone)]
pub struct StagePolicy {
    /// Name under which the operator runs it.
    pub name: Arc<str>,
    /// CloudEvents source of what it emits.
    pub source: String,
    /// Topic patterns that it consumes.
    pub consumes: Vec<String>,
    /// Event types that it declared.
    pub emits: Vec<String>,
    /// When failed attempts are repeated.
    pub retry: RetryPolicy,
    /// Longest chain of events, in stages.
    pub hops_max: u32,
    /// Most events that stages may emit in one chain.
    pub chain_events_max: u64,
    /// Milliseconds from when an event falls due until it expires.
    pub expiry_ms: u64,
    /// Longest delay of an emitted event.
    pub delay_max_ms: u64,
}
