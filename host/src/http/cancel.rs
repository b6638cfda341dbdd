//! `/orders/{id}/cancel`: stops an order and undoes what was done for it. Asked again, it answers
//! how that stands.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::fields::Fields;
use super::json::JsonBody;
use super::paths::OrderId;
use super::problem::{Answer, Kind, Problem};
use crate::domain::trace_context::TraceContext;
use crate::store::Cancelled;

/// How a cancel stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CancelReceipt {
    order_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
}

/// Cancels an order.
///
/// Stages undo what they did. Asked again, it answers how that stands.
#[utoipa::path(post, path = "/orders/{id}/cancel", tag = "orders", params(OrderId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 202, description = "Begun; something is still to be undone", body = CancelReceipt, headers(("Location" = String, description = "The order"))),
        (status = 200, description = "Cancelled, and all undone", body = CancelReceipt, headers(("Location" = String, description = "The order"))),
        (status = 404, description = "No order has this id", body = Problem),
        (status = 409, description = "Too late: `detail` says why", body = Problem),
    ))]
pub(super) async fn cancel(
    State(app): State<Shared>,
    trace: TraceContext,
    Path(OrderId(id)): Path<OrderId>,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let mut fields = Fields::optional(body, &["reason"]);
    let reason = fields.reason();
    fields.finish("a cancel of an order")?;
    let order = match app.cancel(&id, reason, trace).await? {
        Cancelled::Begun(order) | Cancelled::Already(order) => order,
        Cancelled::Refused(order) => {
            return Err(Problem::new(Kind::OrderNotCancellable, app.why_not_cancelled(&order)));
        }
        Cancelled::NotFound => return Err(Problem::not_found(format!("no order `{id}`"))),
    };
    // Over when everything is undone.
    let status = if app.is_cancelled(&order) { StatusCode::OK } else { StatusCode::ACCEPTED };
    let place = format!("/orders/{}", order.id);
    let receipt = CancelReceipt {
        order_id: order.id,
        status: order.status,
        updated_at_ms: order.updated_at_ms,
    };
    Ok((status, [(header::LOCATION, place)], Json(receipt)).into_response())
}
