//! `GET /orders/{id}`: shows one order.

use axum::Json;
use axum::extract::{Path, State};

use super::view::OrderView;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::OrderId;

/// Shows an order with its deliveries.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", params(OrderId),
    responses(
        (status = 200, body = OrderView),
        (status = 404, description = "No order has this id", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    Path(OrderId(id)): Path<OrderId>,
) -> Answer<Json<OrderView>> {
    let history = app.history(&id).await?;
    history
        .map(|history| Json(history.into()))
        .ok_or_else(|| Problem::not_found(format!("no order `{id}`")))
}
