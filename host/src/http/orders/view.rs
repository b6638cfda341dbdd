//! How the API shows orders.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::SubjectHistory;
use crate::http::deliveries::DeliveryView;
use crate::store::Subject;

/// An order in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderSummary {
    order_id: String,
    customer: Option<String>,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
}

impl From<Subject> for OrderSummary {
    fn from(subject: Subject) -> Self {
        let Subject { key, customer, status, created_at_ms, updated_at_ms, .. } = subject;
        Self { order_id: key.id().to_owned(), customer, status, created_at_ms, updated_at_ms }
    }
}

/// An order with its deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Order)]
pub(crate) struct OrderView {
    #[serde(flatten)]
    summary: OrderSummary,
    /// The body as stages see it.
    order: Value,
    /// Its deliveries, by the position of their events in the log.
    timeline: Vec<DeliveryView>,
    /// `after` of the next page of the timeline; none at the end.
    next: Option<i64>,
}

impl From<SubjectHistory> for OrderView {
    fn from(SubjectHistory { mut subject, deliveries, next }: SubjectHistory) -> Self {
        let body = subject.body.take();
        let timeline = deliveries.into_iter().map(Into::into).collect();
        Self { summary: subject.into(), order: body, timeline, next }
    }
}
