//! Subjects: submit, show, cancel. The store decides under the subject's lock; what it writes is
//! durable before a method returns, and goes to the relay afterwards.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::audit::actor;
use super::subject_metrics::SubjectOutcome;
use super::{App, Draft};
use crate::domain::body_shape::ParsedBody;
use crate::domain::event::without_nul;
use crate::domain::fair_queue::customer_hash;
use crate::domain::field_error::FieldError;
use crate::domain::steps::count_json_written;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKind;
use crate::domain::trace_context::TraceContext;
#[cfg(feature = "postgres")]
use crate::store::postgres::WithinError;
use crate::store::{
    Accepted, Cancelled, DeliveryRecord, NewCancel, NewSubject, Page, StoreError, Subject,
};

/// A subject that is durable.
///
/// ```no_run
/// # async fn example(app: &postrider::App, body: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::Submitted;
///
/// match app.submit("document", body).await? {
///     Submitted::New(subject) => println!("accepted {}", subject.key),
///     Submitted::Duplicate(subject) => println!("{} was accepted before", subject.key),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "tells a new subject from one that was submitted before"]
pub enum Submitted {
    /// It was written now, and its first event is on the way to the stages.
    New(Subject),
    /// The same subject was submitted before; it is returned as stored, and nothing was written.
    Duplicate(Subject),
}

impl Submitted {
    /// The subject, new or not.
    pub fn into_subject(self) -> Subject {
        match self {
            Self::New(subject) | Self::Duplicate(subject) => subject,
        }
    }
}

/// Why a subject was not accepted. Nothing was written.
///
/// ```no_run
/// # async fn example(app: &postrider::App, body: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::SubmitError;
///
/// match app.submit("document", body).await {
///     Ok(submitted) => println!("{}", submitted.into_subject().key),
///     Err(SubmitError::Conflict { key }) => eprintln!("{key} exists with a different body"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The body is invalid; every problem of it.
    #[error("invalid body: {}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// A subject with this key and a different body exists.
    #[error("{} `{}` exists with a different body", .key.kind(), .key.id())]
    Conflict {
        /// The key of the subject.
        key: SubjectKey,
    },
    /// The broker accepts no event of this size.
    #[error("the body has {bytes} bytes; the broker accepts at most {limit}")]
    TooLarge {
        /// Bytes of the body in JSON.
        bytes: usize,
        /// The most that the broker accepts, as far as this host knows.
        limit: usize,
    },
    /// No kind of this name is configured.
    #[error("{0}")]
    UnknownKind(String),
    /// The idempotency key was used with a different request.
    #[error("idempotency key reused with a different request")]
    KeyReused,
    /// The value cannot be written as JSON.
    #[error("the body cannot be written as JSON")]
    Serialize(#[from] serde_json::Error),
    /// The transaction is not on the host's database: another server or database, or the host keeps
    /// its data elsewhere.
    #[error("the transaction is not on the Postgres database of this host")]
    OtherDatabase,
    /// The store failed. Whether the subject was written is not known: submit it again with the same
    /// id or idempotency key.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn summary(problems: &[FieldError]) -> String {
    let problems: Vec<String> =
        problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.detail)).collect();
    problems.join("; ")
}

/// What accompanies the body of a subject.
///
/// ```no_run
/// # async fn example(app: &postrider::App, body: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::Submission;
///
/// let key = Some("checkout-7".to_owned());
/// let submission = Submission { idempotency_key: key, ..Submission::default() };
/// let subject = app.submit_with("document", body, submission).await?.into_subject();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// The trace that the subject's events continue; none: they begin one.
    pub trace: Option<TraceContext>,
    /// Names the request: repeated with the same body it is a duplicate, with another body an
    /// error. Keys never expire.
    pub idempotency_key: Option<String>,
    /// When its first event is delivered, milliseconds since 1970-01-01 UTC; none: immediately.
    pub due_at_ms: Option<u64>,
    /// The id of the principal that submits it, which is stored with the subject.
    pub owner: Option<String>,
}

/// A subject with its deliveries.
///
/// ```
/// use postrider::SubjectHistory;
///
/// fn print(history: &SubjectHistory) {
///     println!("{} is {}", history.subject.key, history.subject.status);
///     println!("{} deliveries", history.deliveries.len());
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubjectHistory {
    /// The subject.
    pub subject: Subject,
    /// Its deliveries, by the position of their events in the log.
    pub deliveries: Vec<DeliveryRecord>,
    /// The position after which [`App::history`] continues; none at the end.
    pub next: Option<i64>,
}

impl App {
    /// Accepts a subject, as a `POST` to the path of its kind does: when it returns, the subject is
    /// durable.
    ///
    /// # Errors
    /// See [`SubmitError`]; a conflict with a stored subject is one of them.
    pub async fn submit(&self, kind: &str, body: impl Serialize) -> Result<Submitted, SubmitError> {
        self.submit_with(kind, body, Submission::default()).await
    }

    /// Accepts a subject with an idempotency key, a schedule or a trace of its caller.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit_with(
        &self,
        kind: &str,
        body: impl Serialize,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let kind = self.kind(kind)?;
        self.accept(kind, serde_json::to_value(body)?, submission).await
    }

    pub(crate) async fn accept(
        &self,
        kind: &SubjectKind,
        body: Value,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let submitted = self.write(kind, body, submission).await;
        self.count(kind, &submitted);
        submitted
    }

    async fn write(
        &self,
        kind: &SubjectKind,
        body: Value,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let mut subject = self.new_subject(kind, body, submission)?;
        let key = subject.key.clone();
        let reserved = self.services.pipeline.reserve(std::iter::once(&mut subject.event));
        let (accepted, rows) = self.services.store.accept_subject(subject).await?;
        self.services.relay.enqueue(reserved.deliver(rows));
        submitted(key, accepted)
    }

    fn kind(&self, name: &str) -> Result<&SubjectKind, SubmitError> {
        let unknown = || SubmitError::UnknownKind(self.kinds.unknown(name));
        self.kinds.named(name).map(|kind| &**kind).ok_or_else(unknown)
    }

    fn count(&self, kind: &SubjectKind, submitted: &Result<Submitted, SubmitError>) {
        let outcome = match submitted {
            Ok(Submitted::New(_)) => SubjectOutcome::Accepted,
            Ok(Submitted::Duplicate(_)) => SubjectOutcome::Duplicate,
            Err(SubmitError::Store(_)) => return,
            Err(_) => SubjectOutcome::Refused,
        };
        self.subject_metrics.count(&kind.name, outcome);
    }

    /// Accepts a subject inside a transaction of the embedding program, on the database of the host:
    /// the subject, its event and its deliveries are written by the transaction, with everything else
    /// that it writes. A host sends the event to the stages within a tenth of a second of the
    /// commit; nothing was submitted if the transaction rolls back.
    ///
    /// After an error the transaction can still be used; roll it back if this future is dropped before
    /// it completes. Commit soon: until the transaction ends, live event streams stop before its event,
    /// and another submission of the same id waits.
    ///
    /// ```no_run
    /// # async fn example(app: &postrider::App, pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use postrider::Submission;
    ///
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE carts SET state = 'ordered' WHERE id = 7").execute(&mut *transaction).await?;
    /// let order = serde_json::json!({ "order_id": "cart-7", "items": ["Book"] });
    /// let _ = app.submit_within(&mut transaction, "order", order, Submission::default()).await?;
    /// transaction.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`SubmitError`].
    #[cfg(feature = "postgres")]
    pub async fn submit_within(
        &self,
        transaction: &mut sqlx::PgTransaction<'_>,
        kind: &str,
        body: impl Serialize,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let kind = self.kind(kind)?;
        let subject = self.new_subject(kind, serde_json::to_value(body)?, submission)?;
        let key = subject.key.clone();
        let store = self.services.store.postgres().ok_or(SubmitError::OtherDatabase)?;
        match store.accept_subject_within(transaction, subject).await {
            Ok(accepted) => submitted(key, accepted),
            Err(WithinError::OtherDatabase) => Err(SubmitError::OtherDatabase),
            Err(WithinError::Store(error)) => Err(error.into()),
        }
    }

    fn new_subject(
        &self,
        kind: &SubjectKind,
        body: Value,
        submission: Submission,
    ) -> Result<NewSubject, SubmitError> {
        let Submission { trace, idempotency_key, due_at_ms, owner } = submission;
        let trace = trace.unwrap_or_else(|| self.services.spans.begin());
        let parsed = kind.parse(body, idempotency_key.as_deref()).map_err(SubmitError::Invalid)?;
        let ParsedBody { id, customer, body, fingerprint } = parsed;
        count_json_written();
        let data = body.to_string();
        if let Some(limit) = self.exceeded_limit(data.len()) {
            return Err(SubmitError::TooLarge { bytes: data.len(), limit });
        }
        let key = SubjectKey::new(&kind.name, &id);
        let event = self.new_event(Draft {
            id: kind.first_event_id(&id),
            event_type: &kind.first_event,
            subject: &id,
            data: data.into(),
            subject_key: Some(key.clone()),
            customer: customer.as_deref(),
            trace,
            due_at_ms,
        });
        Ok(NewSubject {
            key,
            customer,
            body,
            fingerprint,
            status: kind.initial_status().to_owned(),
            idempotency_key,
            owner,
            event,
        })
    }

    /// The status of a subject; none when there is no such subject.
    pub async fn status(&self, key: &SubjectKey) -> Result<Option<String>, StoreError> {
        Ok(self.services.store.subject(key).await?.map(|subject| subject.status))
    }

    /// Returns the subject with the deliveries of `limit` events after the position `after` (0: from
    /// the first one); none when there is no such subject.
    pub async fn history(
        &self,
        key: &SubjectKey,
        after: i64,
        limit: u32,
    ) -> Result<Option<SubjectHistory>, StoreError> {
        let Some(subject) = self.services.store.subject(key).await? else {
            return Ok(None);
        };
        let Page { items, next } =
            self.services.store.subject_deliveries(key, after, limit.max(1)).await?;
        Ok(Some(SubjectHistory { subject, deliveries: items, next }))
    }

    /// Cancels a subject. When it returns, no stage processes the subject further, and the
    /// compensations are on the way. Repeated, it changes nothing.
    pub async fn cancel(
        &self,
        key: &SubjectKey,
        reason: Option<String>,
        trace: TraceContext,
    ) -> Result<Cancelled, StoreError> {
        let Some(kind) = self.kinds.of(key) else { return Ok(Cancelled::NotFound) };
        let reason = reason.map(without_nul);
        let mut data = serde_json::json!({ "reason": reason });
        data[&kind.id.field] = key.id().into();
        let event = self.new_event(Draft {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: &kind.cancel_event,
            subject: key.id(),
            data: data.to_string().into(),
            subject_key: Some(key.clone()),
            customer: None,
            trace,
            due_at_ms: None,
        });
        let cancel = NewCancel { subject_key: key.clone(), event, reason, actor: actor() };
        let (cancelled, mut rows) = self.services.store.cancel_subject(cancel).await?;
        if let Cancelled::Begun(subject) = &cancelled {
            for row in &mut rows {
                let customer = customer_hash(subject.customer.as_deref());
                Arc::make_mut(&mut row.envelope).customer_hash = customer;
            }
            self.subject_metrics.count(&kind.name, SubjectOutcome::Cancelled);
        }
        self.services.relay.enqueue(rows);
        Ok(cancelled)
    }
}

/// Explains why a subject cannot be cancelled, for people.
pub fn why_not_cancelled(kind: &SubjectKind, subject: &Subject) -> String {
    let SubjectKind { name, plural, cancel_event, .. } = kind;
    let (id, status) = (subject.id(), &subject.status);
    let transition = kind.status.transitions.get(cancel_event);
    match transition.map(|transition| transition.from.as_deref()) {
        None => format!(
            "{plural} cannot be cancelled: `subjects.{name}.status.transitions` has no \
             `{cancel_event}`"
        ),
        Some(Some(from)) => {
            format!("{name} `{id}` is `{status}`; it can be cancelled while it is {}", one_of(from))
        }
        Some(None) => format!("{name} `{id}` is `{status}`, which is final"),
    }
}

fn submitted(key: SubjectKey, accepted: Accepted) -> Result<Submitted, SubmitError> {
    match accepted {
        Accepted::New(subject) => Ok(Submitted::New(subject)),
        Accepted::Duplicate(subject) => Ok(Submitted::Duplicate(subject)),
        Accepted::Conflict => Err(SubmitError::Conflict { key }),
        Accepted::KeyReused => Err(SubmitError::KeyReused),
    }
}

fn one_of(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, before @ [_, ..])) => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    }
}
