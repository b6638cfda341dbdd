//! Counts submissions and cancellations by kind, since the host started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::subject_kind::SubjectKinds;

/// What became of a submission or a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectOutcome {
    /// A new subject was accepted.
    Accepted,
    /// The subject was accepted before.
    Duplicate,
    /// The body, the id or the idempotency key was refused.
    Refused,
    /// A cancellation began.
    Cancelled,
}

impl SubjectOutcome {
    /// Every outcome, with its name in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Accepted, "accepted"),
        (Self::Duplicate, "duplicate"),
        (Self::Refused, "refused"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// The counts of all kinds.
#[derive(Debug)]
pub struct SubjectMetrics(BTreeMap<String, [AtomicU64; 4]>);

impl SubjectMetrics {
    pub(super) fn of(kinds: &SubjectKinds) -> Self {
        Self(kinds.iter().map(|kind| (kind.name.clone(), Default::default())).collect())
    }

    pub(super) fn count(&self, kind: &str, outcome: SubjectOutcome) {
        if let Some(counts) = self.0.get(kind) {
            counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts by kind and outcome.
    pub fn counts(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.0.iter().flat_map(|(kind, counts)| {
            SubjectOutcome::ALL.into_iter().map(move |(outcome, name)| {
                (kind.as_str(), name, counts[outcome as usize].load(Ordering::Relaxed))
            })
        })
    }
}
