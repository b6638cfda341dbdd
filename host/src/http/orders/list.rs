//! `GET /orders`: lists orders.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::KIND;
use super::view::OrderSummary;
use crate::http::Shared;
use crate::http::openapi::{instant_schema, page_size_schema, position_schema};
use crate::http::pages::Listing;
use crate::http::problem::Answer;
use crate::http::request::{QueryValidator, ValidQuery};
use crate::store::SubjectFilter;

/// Which orders.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListOrders {
    /// Filter by status.
    status: Option<String>,
    /// Filter by customer.
    #[serde(alias = "user_id", alias = "customer_id")]
    customer: Option<String>,
    /// Filter by stage: orders with an open or dead-lettered delivery at this stage.
    stage: Option<String>,
    /// Filter by creation time: at or after.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Filter by creation time: before.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the previous page.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

impl ListOrders {
    fn filter(self) -> Answer<SubjectFilter> {
        let mut validator = QueryValidator::default();
        let filter = SubjectFilter {
            kind: Some(KIND.to_owned()),
            since_ms: validator.instant("since", self.since.as_deref()),
            until_ms: validator.instant("until", self.until.as_deref()),
            before: validator.position("cursor", self.cursor),
            limit: validator.limit(self.limit),
            status: self.status,
            customer: self.customer,
            stage: self.stage,
        };
        validator.finish().map(|()| filter)
    }
}

/// Lists orders, newest first.
#[utoipa::path(get, path = "/orders", tag = "orders", params(ListOrders),
    responses((status = 200, body = Listing<OrderSummary>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    ValidQuery(query): ValidQuery<ListOrders>,
) -> Answer<Json<Listing<OrderSummary>>> {
    Ok(Json(Listing::of(app.services().store.subjects(query.filter()?).await?)))
}
