//! Limits of this host as operators see them: requests that were refused because of one, and what
//! waits in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::App;

/// The limit because of which a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Requests of an address.
    AddressRate,
    /// Requests of a principal.
    PrincipalRate,
    /// Connections.
    Connections,
    /// Requests in progress.
    Concurrency,
    /// Bytes of the bodies of requests.
    Bodies,
    /// Bytes of answers.
    Answers,
    /// Live streams and exports.
    Streams,
}

impl Refusal {
    /// Each with its name in metrics.
    const ALL: [(Self, &'static str); 7] = [
        (Self::AddressRate, "address-rate"),
        (Self::PrincipalRate, "principal-rate"),
        (Self::Connections, "connections"),
        (Self::Concurrency, "concurrency"),
        (Self::Bodies, "bodies"),
        (Self::Answers, "answers"),
        (Self::Streams, "streams"),
    ];
}

/// How many requests were refused since this host started.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts a request that was refused.
    pub(crate) fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Their numbers, each with the name of its limit.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let load = |refusal| self.0[refusal as usize].load(Ordering::Relaxed);
        Refusal::ALL.into_iter().map(move |(refusal, name)| (name, load(refusal)))
    }
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// What is used.
    pub(crate) used: u64,
    /// The limit.
    pub(crate) max: u64,
}

/// What an embedded queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueLoad {
    /// The stage whose queue it is.
    pub(crate) stage: String,
    /// Messages.
    pub(crate) messages: Load,
    /// Their bytes.
    pub(crate) bytes: Load,
}

impl App {
    /// The requests that were refused because of a limit.
    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// The bytes of events and state that wait for the store's writer.
    pub(crate) fn writer_load(&self) -> Load {
        let (used, max) = self.services.store.writer_bytes();
        Load { used, max }
    }

    /// What each embedded queue holds; none behind another broker.
    pub(crate) fn queue_loads(&self) -> Vec<QueueLoad> {
        let broker = &self.services.broker;
        let load = |stage: &str| {
            let (held, most) = broker.held(stage)?;
            Some(QueueLoad {
                stage: stage.to_owned(),
                messages: Load { used: held.messages.into(), max: most.messages.into() },
                bytes: Load { used: held.bytes, max: most.bytes },
            })
        };
        let stages = self.services.pipeline.stages();
        stages.iter().filter_map(|stage| load(&stage.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_their_limits() {
        let refusals = Refusals::default();
        for (number, (refusal, _)) in Refusal::ALL.into_iter().enumerate() {
            (0..=number).for_each(|_| refusals.count(refusal));
        }
        let counts: Vec<u64> = refusals.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7]);
    }
}
