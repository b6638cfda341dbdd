//! `POST /products`: announces stock that arrived.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::StockError;
use crate::domain::stock::parse_stock;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{IdempotencyKey, JsonBody};

/// Stock that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StockReceipt {
    sku: String,
    /// The data of the event that the stage receives.
    #[schema(value_type = Object)]
    accepted: Value,
}

/// Announces stock that arrived.
#[utoipa::path(post, path = "/products", tag = "products", params(IdempotencyKey),
    request_body = ref("#/components/schemas/Stock"),
    responses((status = 202, description = "Accepted", body = StockReceipt,
        headers(("Location" = String, description = "The product")))))]
pub(crate) async fn stock(
    State(app): State<Shared>,
    trace: TraceContext,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let stock =
        parse_stock(body).map_err(|errors| Problem::invalid("stock announcement", errors))?;
    let receipt = StockReceipt { sku: stock.sku.clone(), accepted: stock.body.clone() };
    let location = format!("/products/{}", stock.sku);
    app.stock(stock, key.as_deref(), trace).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(receipt)).into_response())
}

impl From<StockError> for Problem {
    fn from(error: StockError) -> Self {
        match error {
            StockError::KeyReused => Self::key_reused(),
            StockError::Store(error) => error.into(),
        }
    }
}
