//! The inputs of a decision: values and references only, so that a test or a replay can name each.

use std::sync::{Arc, OnceLock};

use crate::domain::event::{DeliveryKey, Envelope, Event, EventKey};
use crate::domain::trace_context::TraceContext;
use crate::pipeline::chains::ChainStatus;
use crate::pipeline::routes::Routes;
use crate::stage::outcome::Outcome;
use crate::stage::policy::StagePolicy;
use crate::store::FailedAttempt;

/// One attempt at a delivery.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The event and its stage.
    pub delivery: DeliveryKey,
    /// Replays so far, from 1.
    pub round: u32,
    /// Number of the attempt in its round, from 1.
    pub attempt: u32,
    /// Digest of the plugin that runs it.
    pub digest: Arc<str>,
    /// The host that makes it; none: it is decided about without one, such as a message that the
    /// broker dead-lettered.
    pub host: Option<Arc<str>>,
    /// Microseconds spent in the stage; 0 before the call.
    pub duration_us: u64,
    trace: OnceLock<TraceContext>,
}

impl Attempt {
    /// An attempt that no host has begun.
    pub fn new(delivery: DeliveryKey, round: u32, attempt: u32, digest: Arc<str>) -> Self {
        let trace = OnceLock::new();
        Self { delivery, round, attempt, digest, host: None, duration_us: 0, trace }
    }

    /// Its place in the trace of `event`, which is that of its delivery.
    pub fn trace(&self, event: &Event) -> &TraceContext {
        self.trace.get_or_init(|| {
            TraceContext::of_attempt(event, &self.delivery, self.round, self.attempt)
        })
    }
}

/// Everything that affects a decision.
pub struct DecisionInputs<'a> {
    /// The stage's policy.
    pub policy: &'a StagePolicy,
    /// Where emitted events go.
    pub routes: &'a dyn Routes,
    /// The event to decide about.
    pub envelope: &'a Envelope,
    /// The attempt under way.
    pub attempt: &'a Attempt,
    /// The event's subject is cancelled: whatever came before, the delivery is skipped.
    pub subject_cancelled: bool,
    /// The event's chain. If it is stopped, the delivery is skipped, whatever came before.
    pub chain: ChainStatus,
    /// When the event expires, extended by the time the stage was paused; milliseconds since
    /// 1970-01-01 UTC.
    pub expires_at_ms: u64,
    /// How far the attempt has come.
    pub progress: Progress<'a>,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// For jitter, in `[0, 1)`.
    pub random: f64,
}

/// How far an attempt has come.
#[derive(Debug, Default)]
pub enum Progress<'a> {
    /// The stage has not been called.
    #[default]
    NotCalled,
    /// The stage has not been called, and another program wants the event to be delivered at a time.
    Scheduled {
        /// Milliseconds since 1970-01-01 UTC.
        due_at_ms: u64,
    },
    /// The stage was called.
    Called {
        /// How the call ended.
        outcome: Outcome,
        /// A dependency of the stage is known to be down: a failure uses up no attempt.
        uncounted: bool,
    },
    /// The broker dead-lettered the message.
    Rejected(Rejection<'a>),
    /// Another program's event has the source and id of another event in the log.
    KeyInUse(&'a EventKey),
    /// The store refuses the outcome, and will refuse it again.
    Refused {
        /// The store's code.
        code: &'a str,
        /// The store's words.
        message: &'a str,
    },
}

/// Why the broker dead-lettered a message.
#[derive(Debug, Clone, Copy)]
pub enum Rejection<'a> {
    /// The message cannot be read, for this reason.
    Unreadable(&'a str),
    /// It claims to be a host's, and is not, for this reason.
    Forged(&'a str),
    /// The queue's own reason, in the broker's words (`maxlen`, `expired`).
    Queue(&'a str),
    /// It was delivered too often without being settled: it is run once more, isolated.
    DeliveryLimit(IsolatedRun<'a>),
}

/// What the store knows of the isolated run of a message.
#[derive(Debug, Clone, Copy)]
pub enum IsolatedRun<'a> {
    /// It is not recorded yet.
    NotRecorded {
        /// The host that is about to run it.
        host: &'a str,
        /// What this process wrote before without an answer. That commit may still take effect, so
        /// the record must stay the same.
        unconfirmed: Option<&'a FailedAttempt>,
    },
    /// This process recorded it and has not begun it.
    NotBegun,
    /// It was begun, and no host settled the delivery.
    Abandoned,
}
