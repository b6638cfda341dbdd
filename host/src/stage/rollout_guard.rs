//! The rollout guard: watches the first calls of a new version, and rolls back to the previous one
//! when too many of them trap.
//!
//! Pure. Only traps and timeouts count: an error that a stage returns is its decision. A trap is an
//! attempt of its message; the next attempt runs on the version that serves by then. A few bad
//! messages say little about a version: the attempts of one message, the events of one subject and
//! the events that one program sends count once, unless most of what the version was called with
//! trapped. Bounds: the number of watched calls.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::event::Envelope;
use crate::stage::outcome::Outcome;

/// From this number of messages on, a majority that traps counts regardless of who sent them.
const TELLING_MESSAGES: usize = 20;

/// When a new version is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutGuardPolicy {
    /// Calls of a new version that are watched; 0: none.
    pub messages: u32,
    /// Number of subjects and other senders whose messages may trap or time out.
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
    calls: u32,
    hasher: RandomState,
    /// Hashes of the messages that it was called with.
    messages: HashSet<u64>,
    /// Hashes of the messages that trapped.
    trapped: HashSet<u64>,
    /// Hashes of their origins.
    origins: HashSet<u64>,
}

/// Where a message comes from: the chain of events that it belongs to, for one of a subject or of a
/// stage, or else the program that sent it.
fn origin(envelope: &Envelope) -> &str {
    if envelope.subject_key.is_some() || envelope.cause.is_some() {
        &envelope.correlation_id
    } else {
        &envelope.event.source
    }
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
        Self {
            policy,
            digest: digest.to_owned(),
            previous,
            calls: 0,
            hasher: RandomState::new(),
            messages: HashSet::new(),
            trapped: HashSet::new(),
            origins: HashSet::new(),
        }
    }

    /// The version that served before.
    pub fn previous(&self) -> &Arc<T> {
        &self.previous
    }

    /// Reports a call of the version `digest` with this message.
    pub fn report(&mut self, digest: &str, envelope: &Envelope, call: CallEnd) -> Finding<T> {
        // A batch that began before the swap still reports the previous version.
        if digest != self.digest {
            return Finding::Watching;
        }
        self.calls += 1;
        let message = self.hasher.hash_one((&envelope.event.source, &envelope.event.id));
        self.messages.insert(message);
        if call == CallEnd::Trapped {
            self.trapped.insert(message);
            self.origins.insert(self.hasher.hash_one(origin(envelope)));
            if let Some(reason) = self.verdict() {
                return Finding::RolledBack { previous: Arc::clone(&self.previous), reason };
            }
        }
        if self.calls >= self.policy.messages { Finding::Passed } else { Finding::Watching }
    }

    /// Why the version is rolled back, if it is.
    fn verdict(&self) -> Option<String> {
        let (trapped, seen) = (self.trapped.len(), self.messages.len());
        let many = self.origins.len() > self.policy.traps_max as usize;
        let most = seen >= TELLING_MESSAGES && trapped * 2 > seen;
        (many || most)
            .then(|| format!("{trapped} of its first {seen} messages trapped or timed out"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Event;
    use crate::domain::subject::SubjectKey;

    const POLICY: RolloutGuardPolicy = RolloutGuardPolicy { messages: 50, traps_max: 1 };
    use CallEnd::{Returned, Trapped};

    fn guard() -> RolloutGuard<&'static str> {
        RolloutGuard::new(POLICY, "new", Arc::new("old"))
    }

    /// An event with this id that a program sent.
    fn sent(id: usize, source: &str) -> Envelope {
        let event = Event {
            id: id.to_string(),
            source: source.to_owned(),
            event_type: "a.b".to_owned(),
            subject: id.to_string(),
            time_ms: 0,
            content_type: String::new(),
            data: bytes::Bytes::new(),
            attributes: Vec::new(),
        };
        Envelope::first(event, None, 0)
    }

    fn subject(id: usize) -> Envelope {
        Envelope {
            subject_key: Some(SubjectKey::new("order", &id.to_string())),
            ..sent(id, "/orders/api")
        }
    }

    /// Reports calls of the new version; returns the reason for which it is rolled back.
    fn judged(calls: impl IntoIterator<Item = (Envelope, CallEnd)>) -> Option<String> {
        let mut guard = guard();
        for (envelope, end) in calls {
            match guard.report("new", &envelope, end) {
                Finding::Watching => {}
                Finding::Passed => return None,
                Finding::RolledBack { previous, reason } => {
                    assert_eq!(*previous, "old");
                    return Some(reason);
                }
            }
        }
        None
    }

    #[test]
    fn a_version_that_traps_too_often_is_rolled_back() {
        let calls = [(subject(1), Trapped), (subject(2), Returned), (subject(3), Trapped)];
        assert_eq!(judged(calls).unwrap(), "2 of its first 3 messages trapped or timed out");
    }

    #[test]
    fn a_few_bad_messages_of_one_sender_say_little() {
        let retried = (0..10).map(|_| (subject(1), Trapped)).collect::<Vec<_>>();
        let one_program = (0..10).map(|id| (sent(id, "/shop"), Trapped)).collect();
        let mut caused = Vec::new();
        for id in 0..10 {
            caused.push((Envelope::caused_by(&sent(1, "/shop"), sent(id, "/x").event, 0), Trapped));
        }
        for calls in [retried, one_program, caused] {
            assert_eq!(judged(calls), None);
        }
        let two_programs = ["/shop", "/bank"].map(|source| (sent(1, source), Trapped));
        assert!(judged(two_programs).is_some());
    }

    #[test]
    fn a_version_on_which_most_messages_trap_is_rolled_back_regardless_of_their_senders() {
        let trapping = (0..30).map(|id| (sent(id, "/shop"), Trapped));
        assert_eq!(judged(trapping).unwrap(), "20 of its first 20 messages trapped or timed out");
        let half =
            (0..40).map(|id| (sent(id, "/shop"), if id % 2 == 0 { Returned } else { Trapped }));
        assert_eq!(judged(half), None);
    }

    #[test]
    fn a_version_passes_after_its_watched_calls() {
        let mut guard = guard();
        for id in 1..50 {
            let end = if id == 2 { Trapped } else { Returned };
            assert!(matches!(guard.report("new", &subject(id), end), Finding::Watching));
        }
        assert!(matches!(guard.report("new", &subject(50), Returned), Finding::Passed));
    }

    #[test]
    fn calls_of_the_previous_version_do_not_count() {
        let mut guard = guard();
        for id in 0..5 {
            assert!(matches!(guard.report("old", &subject(id), Trapped), Finding::Watching));
        }
    }
}
