//! Subjects as every store keeps them, and requests that create, cancel, list or prune them.

use serde_json::Value;

use super::NewEvent;
use crate::domain::actor::Actor;
use crate::domain::subject::SubjectKey;

/// A new subject.
#[derive(Debug, Clone)]
pub struct NewSubject {
    /// The key.
    pub key: SubjectKey,
    /// The customer, if the subject names one.
    pub customer: Option<String>,
    /// The normalised body.
    pub body: Value,
    /// SHA-256 of the canonical submitted body, in hex: distinguishes a repeated subject from another
    /// one with its id.
    pub fingerprint: String,
    /// Initial status.
    pub status: String,
    /// The request's idempotency key, bound to this body for ever.
    pub idempotency_key: Option<String>,
    /// The principal that submits it.
    pub owner: Option<String>,
    /// Its first event.
    pub event: NewEvent,
}

impl NewSubject {
    /// As it is stored at `now_ms`, milliseconds since 1970-01-01 UTC.
    pub(crate) fn stored_at(&self, now_ms: u64) -> Subject {
        Subject {
            key: self.key.clone(),
            customer: self.customer.clone(),
            status: self.status.clone(),
            body: self.body.clone(),
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
            owner: self.owner.clone(),
            unreadable: None,
        }
    }
}

/// The result of accepting a subject.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// Written.
    New(Subject),
    /// The same subject was accepted before.
    Duplicate(Subject),
    /// A subject of this kind with this id and another body exists.
    Conflict,
    /// The idempotency key was used with a different body.
    KeyReused,
}

/// A request to cancel a subject.
#[derive(Debug, Clone)]
pub struct NewCancel {
    /// The subject.
    pub subject_key: SubjectKey,
    /// `order.cancelled`, written with the new status or not at all.
    pub event: NewEvent,
    /// Why, for the audit log.
    pub reason: Option<String>,
    /// Who cancels it.
    pub actor: Actor,
}

/// The result of a cancellation request.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// Its new status and its event were written.
    Begun(Subject),
    /// It is cancelled, or being cancelled: nothing was changed.
    Already(Subject),
    /// Its status does not allow a cancellation: nothing was changed.
    Refused(Subject),
    /// No subject of this kind has this id.
    NotFound,
}

/// A subject as stored.
///
/// ```no_run
/// # async fn example(app: &postrider::App) -> anyhow::Result<()> {
/// let subject = app.submit("document", serde_json::json!({ "title": "Minutes" })).await?;
/// let subject = subject.into_subject();
/// println!("{} is {} since {} ms", subject.key, subject.status, subject.updated_at_ms);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Its kind and id.
    pub key: SubjectKey,
    /// The customer.
    pub customer: Option<String>,
    /// Status by the configured transitions.
    pub status: String,
    /// The normalised body.
    pub body: Value,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub updated_at_ms: u64,
    /// The principal that submitted it; none: not known.
    pub owner: Option<String>,
    /// Why the body, which is null, cannot be read: it was erased, or its key is missing.
    pub unreadable: Option<String>,
}

impl Subject {
    /// The subject's id, unique within its kind.
    pub fn id(&self) -> &str {
        self.key.id()
    }

    /// The subject's kind.
    pub fn kind(&self) -> &str {
        self.key.kind()
    }
}

/// Filters of the subject list, newest first.
#[derive(Debug, Clone, Default)]
pub struct SubjectFilter {
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// Only this customer.
    pub customer: Option<String>,
    /// Only those that this principal submitted.
    pub owner: Option<String>,
    /// Only subjects with an open delivery or an open dead letter at this stage.
    pub stage: Option<String>,
    /// Only those created then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only those created before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// Cursor: position (`rowid`-like, growing) of the last subject seen; newest first.
    pub before: Option<i64>,
    /// Page size.
    pub limit: u32,
}

/// What one batch of retention may delete.
#[derive(Debug, Clone)]
pub struct PruneRequest {
    /// Kinds, and the time before which their finished subjects were last changed, milliseconds since
    /// 1970-01-01 UTC. Subjects of other kinds are kept.
    pub subjects: Vec<(String, u64)>,
    /// The same for events without a subject, and for what belongs to no event; none keeps them.
    pub others: Option<u64>,
    /// Most subjects of each kind, and most events without a subject, that are examined.
    pub limit: u32,
}

/// What one batch of retention deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Subjects, with their events, deliveries and state.
    pub subjects: u64,
    /// Events without a subject.
    pub events: u64,
}
