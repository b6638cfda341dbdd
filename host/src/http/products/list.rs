//! `GET /products`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use crate::http::Shared;
use crate::http::openapi::page_size_schema;
use crate::http::pages::Items;
use crate::http::problem::Answer;
use crate::http::request::{QueryValidator, ValidQuery};

/// Which products.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListProducts {
    /// Products whose SKU sorts after this one.
    after: Option<String>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Lists products by SKU, each as its stage keeps it.
#[utoipa::path(get, path = "/products", tag = "products", params(ListProducts),
    responses((status = 200, body = Items<Value>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    ValidQuery(query): ValidQuery<ListProducts>,
) -> Answer<Json<Items<Value>>> {
    let mut validator = QueryValidator::default();
    let limit = validator.limit(query.limit);
    validator.finish()?;
    let after = query.after.as_deref().unwrap_or_default();
    Ok(Json(Items::of(app.products(after, limit).await?)))
}
