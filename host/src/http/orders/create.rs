//! `POST /orders`: submits an order.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Submission, SubmitError, Submitted};
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{IdempotencyKey, JsonBody, Schedule};
use crate::store::Subject;

/// An order that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderReceipt {
    order_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
}

/// Submits an order.
///
/// An accepted order is durable, and its first event is on the way to the stages. The same
/// `order_id` with the same body returns the stored order.
#[utoipa::path(post, path = "/orders", tag = "orders", params(IdempotencyKey, Schedule),
    request_body = ref("#/components/schemas/NewOrder"),
    responses(
        (status = 202, description = "Accepted", body = OrderReceipt,
            headers(("Location" = String, description = "The order"))),
        (status = 200, description = "The same order was accepted before", body = OrderReceipt,
            headers(("Location" = String, description = "The order"))),
        (status = 409, description = "An order with this id and a different body exists",
            body = Problem),
    ))]
pub(crate) async fn create(
    State(app): State<Shared>,
    trace: TraceContext,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    Schedule(due_at_ms): Schedule,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let has_key = idempotency_key.is_some();
    let submission = Submission { trace, idempotency_key, due_at_ms };
    let (status, order) = match app.accept(body, submission).await? {
        Submitted::New(order) => (StatusCode::ACCEPTED, order),
        // A request that is repeated under its key gets the answer that it got at first.
        Submitted::Duplicate(order) if has_key => {
            (StatusCode::ACCEPTED, Subject { status: app.initial_status().to_owned(), ..order })
        }
        Submitted::Duplicate(order) => (StatusCode::OK, order),
    };
    let location = format!("/orders/{}", order.id());
    let receipt = OrderReceipt {
        order_id: order.id().to_owned(),
        status: order.status,
        created_at_ms: order.created_at_ms,
    };
    Ok((status, [(header::LOCATION, location)], Json(receipt)).into_response())
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(errors) => Self::invalid("order", errors),
            SubmitError::Conflict { .. } => Self::new(Kind::ORDER_EXISTS, error.to_string()),
            SubmitError::TooLarge { bytes, limit } => Self::too_large_for_broker(bytes, limit),
            // Of callers in the process only.
            SubmitError::Serialize(_) | SubmitError::OtherDatabase => Self::internal(),
            SubmitError::KeyReused => Self::key_reused(),
            SubmitError::Store(error) => error.into(),
        }
    }
}
