//! `GET /products/{sku}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;

use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::Sku;

/// Shows a product as its stage keeps it.
#[utoipa::path(get, path = "/products/{sku}", tag = "products", params(Sku),
    responses(
        (status = 200, body = ref("#/components/schemas/Product")),
        (status = 404, description = "It has never been stocked or ordered", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    Path(Sku(sku)): Path<Sku>,
) -> Answer<Json<Value>> {
    app.product(&sku).await?.map(Json).ok_or_else(|| {
        Problem::not_found(format!("unknown product `{sku}`: it has never been stocked or ordered"))
    })
}
