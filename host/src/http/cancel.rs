//! `/orders/{id}/cancel`: stops an order and undoes what was done for it. Asked again, it answers how that stands.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use super::caller::Caller;
use super::json::JsonBody;
use super::problem::{Answer, Problem};
use crate::orders::parse_cancel;
use crate::store::Cancelled;

pub(super) async fn cancel(
    State(app): State<Shared>,
    Caller(trace): Caller,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let reason = parse_cancel(body).map_err(|errors| Problem::invalid("The body is no cancel of an order", errors))?;
    let order = match app.cancel(&id, reason, trace).await? {
        Cancelled::Begun(order) | Cancelled::Already(order) => order,
        Cancelled::Refused(order) => {
            let (detail, title) = (app.why_not_cancelled(&order), "The order can no longer be cancelled");
            return Err(Problem::conflict("/problems/order-not-cancellable", title, detail));
        }
        Cancelled::NotFound => return Err(Problem::not_found(format!("no order `{id}`"))),
    };
    // Over when everything is undone.
    let status = if app.is_cancelled(&order) { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = json!({ "order_id": order.id, "status": order.status, "updated_at_ms": order.updated_at_ms });
    Ok((status, [(header::LOCATION, format!("/orders/{}", order.id))], Json(body)).into_response())
}
