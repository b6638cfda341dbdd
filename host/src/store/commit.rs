//! A lane's batch: the verdicts on its deliveries and the state that goes with them, committed
//! together or not at all.

use std::sync::Arc;

use bytes::Bytes;

use super::{AttemptKey, FailedAttempt, NewEvent, OutboxRow, Version};
use crate::domain::event::{DeliveryKey, Envelope};

/// The outcome of a delivery's attempt.
///
/// ```
/// use postrider::Verdict;
///
/// fn name(verdict: &Verdict) -> &'static str {
///     match verdict {
///         Verdict::Done(_) => "done",
///         Verdict::Retry { .. } => "failed, to be retried",
///         Verdict::Dead { .. } => "dead-lettered",
///         Verdict::Skipped => "skipped",
///         Verdict::Deferred { .. } => "not run yet",
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The stage succeeded and emitted these events.
    Done(Vec<NewEvent>),
    /// The attempt failed: the next one is made at this time.
    Retry {
        /// Milliseconds since 1970-01-01 UTC.
        due_at_ms: u64,
    },
    /// Dead-lettered; the event announces it.
    Dead {
        /// Short and stable.
        code: String,
        /// For people.
        message: String,
        /// `postrider.dead-lettered`.
        announcement: NewEvent,
    },
    /// Settled without running the stage.
    Skipped,
    /// Sent again later as the same attempt: the stage did not run.
    Deferred {
        /// Milliseconds since 1970-01-01 UTC.
        due_at_ms: u64,
    },
}

impl Verdict {
    /// The events that the stage emitted.
    pub(crate) fn emitted(&self) -> &[NewEvent] {
        match self {
            Self::Done(events) => events,
            Self::Retry { .. } | Self::Dead { .. } | Self::Skipped | Self::Deferred { .. } => &[],
        }
    }

    /// The events that the stage emitted.
    pub(crate) fn emitted_mut(&mut self) -> &mut [NewEvent] {
        match self {
            Self::Done(events) => events,
            Self::Retry { .. } | Self::Dead { .. } | Self::Skipped | Self::Deferred { .. } => {
                &mut []
            }
        }
    }
}

/// One delivery's part of a batch.
///
/// ```no_run
/// use postrider::{Config, Host, Verdict};
///
/// # async fn example() -> anyhow::Result<()> {
/// let host = Host::builder().config(Config::load(None)?)
///     .observe(|settled| {
///         if let Verdict::Dead { code, .. } = &settled.verdict {
///             eprintln!("{} dead-lettered: {code}", settled.delivery.event.id);
///         }
///     })
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which delivery.
    pub delivery: DeliveryKey,
    /// Its event: written if the store has not seen it (published by another program).
    pub envelope: Arc<Envelope>,
    /// When its event is due, if another program scheduled it: written with the event.
    pub scheduled_ms: Option<u64>,
    /// Round that was run.
    pub round: u32,
    /// Attempt that was run.
    pub attempt: u32,
    /// The outcome.
    pub verdict: Verdict,
    /// Version of the plugin that ran.
    pub version: String,
    /// Digest of the plugin that ran.
    pub digest: Arc<str>,
    /// Name of the host that ran it, or decided without a call; none: no host ran it.
    pub host: Option<Arc<str>>,
    /// Time spent in the stage.
    pub duration_us: u64,
    /// The failed attempt, for `Retry` and for a dead letter that an attempt led to.
    pub failure: Option<FailedAttempt>,
    /// What the stage received and decided, in JSON; stored when this settles the delivery.
    pub recording: Option<String>,
}

impl Settlement {
    /// The attempt that it settles.
    pub fn attempt_key(&self) -> AttemptKey {
        let Self { delivery, round, attempt, .. } = self;
        AttemptKey { delivery: delivery.clone(), round: *round, attempt: *attempt }
    }

    /// The bytes of its event and of those that it emits.
    pub(crate) fn bytes(&self) -> u64 {
        let emitted = self.verdict.emitted().iter().map(|event| event.envelope.bytes());
        self.envelope.bytes() + emitted.sum::<u64>()
    }
}

/// The settlements and state of a lane's batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stage.
    pub stage: Arc<str>,
    /// Its deliveries, each at most once.
    pub settlements: Vec<Settlement>,
    /// Versions of the keys that the batch read.
    pub reads: Vec<(String, Version)>,
    /// State writes; `None` removes the key.
    pub writes: Vec<(String, Option<Bytes>)>,
}

/// The result of a commit.
#[derive(Debug)]
pub enum Commit {
    /// Written and durable.
    Done {
        /// Versions assigned to the written keys, in the order of the batch's writes.
        versions: Vec<Version>,
        /// Outbox rows that are due now and leased to this host: hand them to the relay.
        outbox: Vec<OutboxRow>,
        /// When the latest of the batch's deliveries was queued, milliseconds since 1970-01-01 UTC: a
        /// queue hands out its messages in that order. 0: none was stored before.
        queued_ms: u64,
    },
    /// Nothing was written: run the batch again without `stale`, and read `conflicts` again.
    Conflict {
        /// Attempts whose delivery another transaction settled or sent again.
        stale: Vec<AttemptKey>,
        /// Keys whose version is no longer the one that the batch read.
        conflicts: Vec<String>,
    },
    /// Nothing was written: the subjects of these deliveries are cancelled. Run the batch again with
    /// them skipped.
    SubjectCancelled(Vec<DeliveryKey>),
}
