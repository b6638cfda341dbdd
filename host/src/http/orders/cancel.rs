//! `POST /orders/{id}/cancel`: cancels an order. Repeated, it answers how far the cancel is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::key;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{OrderId, Parsed, Reason};
use crate::store::Cancelled;

/// The state of a cancel.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CancelReceipt {
    order_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
}

/// Cancels an order.
///
/// The stages run their compensations. Repeated, it answers how far the cancel is.
#[utoipa::path(post, path = "/orders/{id}/cancel", tag = "orders", params(OrderId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 202, description = "Cancelling; some compensations have not completed",
            body = CancelReceipt, headers(("Location" = String, description = "The order"))),
        (status = 200, description = "Cancelled; every compensation has completed",
            body = CancelReceipt, headers(("Location" = String, description = "The order"))),
        (status = 404, description = "No order has this id", body = Problem),
        (status = 409, description = "Too late: `detail` says why", body = Problem),
    ))]
pub(crate) async fn cancel(
    State(app): State<Shared>,
    trace: TraceContext,
    Path(OrderId(id)): Path<OrderId>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Response> {
    let missing = || Problem::not_found(format!("no order `{id}`"));
    let key = key(&id).ok_or_else(missing)?;
    let order = match app.cancel(&key, reason, trace).await? {
        Cancelled::Begun(order) | Cancelled::Already(order) => order,
        Cancelled::Refused(order) => {
            return Err(Problem::new(Kind::ORDER_NOT_CANCELLABLE, app.why_not_cancelled(&order)));
        }
        Cancelled::NotFound => return Err(missing()),
    };
    // 200 only when every compensation has completed.
    let status = if app.is_cancelled(&order) { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/orders/{id}");
    let receipt =
        CancelReceipt { order_id: id, status: order.status, updated_at_ms: order.updated_at_ms };
    Ok((status, [(header::LOCATION, location)], Json(receipt)).into_response())
}
