//! `/products`: stock in, stock seen. Reads come from the state of the stage that keeps the stock.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::caller::Caller;
use super::headers::IdempotencyKey;
use super::json::JsonBody;
use super::orders::page_size;
use super::problem::{Answer, Problem};
use crate::app::Stocked;
use crate::orders::parse_stock;

pub(super) async fn stock(
    State(app): State<Shared>,
    Caller(trace): Caller,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let stock = parse_stock(body).map_err(|errors| Problem::invalid("The body is no stock of a product", errors))?;
    let answer = json!({ "sku": stock.sku, "accepted": stock.body });
    let place = format!("/products/{}", stock.sku);
    if app.stock(stock, key.as_deref(), trace).await? == Stocked::KeyReused {
        return Err(Problem::key_reused());
    }
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let products = app.products(query.after.as_deref().unwrap_or_default(), page_size(query.limit)?).await?;
    Ok(Json(json!({ "items": products })))
}

pub(super) async fn show(State(app): State<Shared>, Path(sku): Path<String>) -> Answer<Json<Value>> {
    let product = app.product(&sku).await?;
    product.map(Json).ok_or_else(|| Problem::not_found(format!("nobody has stocked `{sku}` and no order has asked for it")))
}
