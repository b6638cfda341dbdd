//! The rollout guard: watches the first calls of a new version, and rolls back to the previous one
//! when too many of them trap.
//!
//! Pure. Only traps and timeouts count: an error that a stage returns is its decision. A trap is an
//! attempt of its message; the next attempt runs on the version that serves by then. Bounds: the
//! number of watched calls.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::stage::outcome::Outcome;

/// When a new version is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutGuardPolicy {
    /// Calls of a new version that are watched; 0: none.
    pub messages: u32,
    /// Number of them that may trap or time out.
    pub traps_max: u32,
}

impl Default for RolloutGuardPolicy {
    fn default() -> Self {
        Self { messages: 100, traps_max: 4 }
    }
}

/// Watches a version that replaced another one.
#[derive(Debug)]
pub struct RolloutGuard<T> {
    policy: RolloutGuardPolicy,
    /// The version that is watched.
    digest: String,
    /// The version that served before.
    previous: Arc<T>,
    seen: u32,
    trapped: u32,
}

/// How a call ended, as far as the guard is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// The stage returned, with or without an error.
    Returned,
    /// It trapped or timed out.
    Trapped,
}

impl CallEnd {
    /// How a call with this outcome ended.
    pub fn of(outcome: &Outcome) -> Self {
        if outcome.is_trap() { Self::Trapped } else { Self::Returned }
    }
}

/// What the guard found about a version.
#[derive(Debug)]
pub enum Finding<T> {
    /// It is still watched.
    Watching,
    /// It ran all its watched calls.
    Passed,
    /// Too many calls trapped.
    RolledBack {
        /// The version to restore.
        previous: Arc<T>,
        /// The reason, in words.
        reason: String,
    },
}

impl<T> RolloutGuard<T> {
    /// Watches `digest`, which replaced `previous`.
    pub fn new(policy: RolloutGuardPolicy, digest: &str, previous: Arc<T>) -> Self {
        Self { policy, digest: digest.to_owned(), previous, seen: 0, trapped: 0 }
    }

    /// The version that served before.
    pub fn previous(&self) -> &Arc<T> {
        &self.previous
    }

    /// Reports a call of the version `digest`.
    pub fn report(&mut self, digest: &str, call: CallEnd) -> Finding<T> {
        // A batch that began before the swap still reports the previous version.
        if digest != self.digest {
            return Finding::Watching;
        }
        self.seen += 1;
        self.trapped += u32::from(call == CallEnd::Trapped);
        if self.trapped > self.policy.traps_max {
            let reason = format!(
                "{} of its first {} messages trapped or timed out",
                self.trapped, self.seen
            );
            return Finding::RolledBack { previous: Arc::clone(&self.previous), reason };
        }
        if self.seen >= self.policy.messages { Finding::Passed } else { Finding::Watching }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RolloutGuardPolicy = RolloutGuardPolicy { messages: 5, traps_max: 1 };

    #[test]
    fn a_version_that_traps_too_often_is_rolled_back() {
        let mut guard = RolloutGuard::new(POLICY, "new", Arc::new("old"));
        assert!(
            matches!(guard.report("old", CallEnd::Trapped), Finding::Watching),
            "a call of the previous version counted"
        );
        assert!(matches!(guard.report("new", CallEnd::Trapped), Finding::Watching));
        assert!(matches!(guard.report("new", CallEnd::Returned), Finding::Watching));
        let Finding::RolledBack { previous, reason } = guard.report("new", CallEnd::Trapped) else {
            panic!("not rolled back")
        };
        assert_eq!(
            (*previous, reason.as_str()),
            ("old", "2 of its first 3 messages trapped or timed out")
        );
    }

    #[test]
    fn a_version_passes_after_its_watched_calls() {
        let mut guard = RolloutGuard::new(POLICY, "new", Arc::new("old"));
        for number in 1..5 {
            assert!(matches!(
                guard.report("new", if number == 2 { CallEnd::Trapped } else { CallEnd::Returned }),
                Finding::Watching
            ));
        }
        assert!(matches!(guard.report("new", CallEnd::Returned), Finding::Passed));
    }
}
