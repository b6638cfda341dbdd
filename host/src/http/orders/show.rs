//! `GET /orders/{id}`: shows one order.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::key;
use super::view::OrderView;
use crate::http::Shared;
use crate::http::openapi::{page_size_schema, position_schema};
use crate::http::problem::{Answer, Problem};
use crate::http::request::{OrderId, QueryValidator, ValidQuery};

/// Which part of the timeline.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowOrder {
    /// `next` of the previous page: the position in the event log after which the page starts.
    #[param(schema_with = position_schema)]
    after: Option<i64>,
    /// Page size, in events.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Shows an order with its deliveries.
///
/// The timeline has the deliveries of one page of events.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", params(OrderId, ShowOrder),
    responses(
        (status = 200, body = OrderView),
        (status = 404, description = "No order has this id", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    Path(OrderId(id)): Path<OrderId>,
    ValidQuery(query): ValidQuery<ShowOrder>,
) -> Answer<Json<OrderView>> {
    let mut validator = QueryValidator::default();
    let after = validator.position("after", query.after).unwrap_or(0);
    let limit = validator.limit(query.limit);
    validator.finish()?;
    let missing = || Problem::not_found(format!("no order `{id}`"));
    let key = key(&id).ok_or_else(missing)?;
    let history = app.history(&key, after, limit).await?;
    history.map(|history| Json(history.into())).ok_or_else(missing)
}
