//! How the API shows subjects.
//!
//! The names of two fields depend on the kind: [`named`] replaces `subject_id` by the kind's id field
//! (`order_id`), and `subject` by the kind's name.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::app::SubjectHistory;
use crate::domain::subject_kind::SubjectKind;
use crate::http::deliveries::DeliveryView;
use crate::store::Subject;

/// The field with the id, before it is named.
pub(crate) const ID: &str = "subject_id";
/// The field with the body, before it is named.
pub(crate) const BODY: &str = "subject";
/// The field with the fields of the body that lists show.
pub(crate) const DISPLAY: &str = "display";

/// A view with the names of a kind.
pub(super) fn named(view: &impl Serialize, kind: &SubjectKind) -> Value {
    let mut shown = json!(view);
    if let Some(fields) = shown.as_object_mut() {
        for (template, name) in [(ID, &kind.id.field), (BODY, &kind.name)] {
            if let Some(value) = fields.remove(template) {
                fields.insert(name.clone(), value);
            }
        }
    }
    shown
}

/// A subject that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubjectReceipt {
    subject_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
}

impl From<Subject> for SubjectReceipt {
    fn from(subject: Subject) -> Self {
        let subject_id = subject.id().to_owned();
        Self { subject_id, status: subject.status, created_at_ms: subject.created_at_ms }
    }
}

/// The state of a cancel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubjectCancelReceipt {
    subject_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
}

impl From<Subject> for SubjectCancelReceipt {
    fn from(subject: Subject) -> Self {
        let subject_id = subject.id().to_owned();
        Self { subject_id, status: subject.status, updated_at_ms: subject.updated_at_ms }
    }
}

/// A subject in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubjectSummary {
    subject_id: String,
    customer: Option<String>,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
    /// The fields of its body that lists show.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    display: Map<String, Value>,
}

impl SubjectSummary {
    /// `payloads`: with the fields of its body.
    pub(super) fn of(subject: Subject, kind: &SubjectKind, payloads: bool) -> Self {
        let shown = |name: &String| Some((name.clone(), subject.body.get(name)?.clone()));
        let display = kind.display.iter().filter(|_| payloads).filter_map(shown).collect();
        let subject_id = subject.id().to_owned();
        let Subject { customer, status, created_at_ms, updated_at_ms, .. } = subject;
        Self { subject_id, customer, status, created_at_ms, updated_at_ms, display }
    }
}

/// A subject with its deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subject)]
pub(crate) struct SubjectView {
    #[serde(flatten)]
    summary: SubjectSummary,
    /// The body as stages see it; null for a principal that may not see payloads.
    subject: Value,
    /// Why the body cannot be read: it was erased, or its key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    /// Its deliveries, by the position of their events in the log.
    timeline: Vec<DeliveryView>,
    /// `after` of the next page of the timeline; none at the end.
    next: Option<i64>,
}

impl SubjectView {
    /// `payloads`: with its body.
    pub(super) fn of(history: SubjectHistory, kind: &SubjectKind, payloads: bool) -> Self {
        let SubjectHistory { mut subject, deliveries, next } = history;
        let unreadable = subject.unreadable.take();
        let body = if payloads { subject.body.clone() } else { Value::Null };
        let timeline = deliveries.into_iter().map(Into::into).collect();
        let summary = SubjectSummary::of(subject, kind, payloads);
        Self { summary, subject: body, unreadable, timeline, next }
    }
}
