//! `/products`: stock in, stock seen. Reads come from the state of the stage that keeps the stock.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::headers::IdempotencyKey;
use super::json::JsonBody;
use super::lists::{Items, QueryValidator};
use super::openapi::page_size_schema;
use super::problem::{Answer, Problem};
use crate::app::StockError;
use crate::domain::order::parse_stock;
use crate::domain::trace_context::TraceContext;

/// Stock that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StockReceipt {
    sku: String,
    /// What the stage that keeps the stock is told.
    #[schema(value_type = Object)]
    accepted: Value,
}

/// Announces stock that arrived.
#[utoipa::path(post, path = "/products", tag = "products", params(IdempotencyKey), request_body = ref("#/components/schemas/Stock"),
    responses((status = 202, description = "Accepted", body = StockReceipt, headers(("Location" = String, description = "The product")))))]
pub(super) async fn stock(
    State(app): State<Shared>,
    trace: TraceContext,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let stock =
        parse_stock(body).map_err(|errors| Problem::invalid("stock of a product", errors))?;
    let answer = StockReceipt { sku: stock.sku.clone(), accepted: stock.body.clone() };
    let place = format!("/products/{}", stock.sku);
    app.stock(stock, key.as_deref(), trace).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response())
}

/// Which products.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those whose SKU sorts after this.
    after: Option<String>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Products by SKU, each as its stage keeps it.
#[utoipa::path(get, path = "/products", tag = "products", params(ListQuery), responses((status = 200, body = Items<Value>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Items<Value>>> {
    let Query(query) = query?;
    let mut checked = QueryValidator::default();
    let limit = checked.limit(query.limit);
    checked.finish()?;
    let items = app.products(query.after.as_deref().unwrap_or_default(), limit).await?;
    Ok(Json(Items { items }))
}

/// One product as its stage keeps it.
#[utoipa::path(get, path = "/products/{sku}", tag = "products", params(("sku" = String, Path, description = "The product's SKU")),
    responses((status = 200, body = ref("#/components/schemas/Product")), (status = 404, description = "Nobody has stocked it", body = Problem)))]
pub(super) async fn show(
    State(app): State<Shared>,
    Path(sku): Path<String>,
) -> Answer<Json<Value>> {
    let product = app.product(&sku).await?;
    product.map(Json).ok_or_else(|| {
        Problem::not_found(format!("nobody has stocked `{sku}` and no order has asked for it"))
    })
}

impl From<StockError> for Problem {
    fn from(error: StockError) -> Self {
        match error {
            StockError::KeyReused => Self::key_reused(),
            StockError::Store(error) => error.into(),
        }
    }
}
