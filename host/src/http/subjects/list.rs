//! `GET /<path of the kind>`: lists subjects.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::OfKind;
use super::view::{SubjectSummary, named};
use crate::domain::access::Requester;
use crate::domain::subject_kind::SubjectKind;
use crate::http::Shared;
use crate::http::openapi::{instant_schema, page_size_schema, position_schema};
use crate::http::pages::Listing;
use crate::http::problem::Answer;
use crate::http::request::{QueryValidator, ValidQuery};
use crate::store::SubjectFilter;

/// Which subjects.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListSubjects {
    /// Filter by status.
    status: Option<String>,
    /// Filter by customer.
    #[serde(alias = "user_id", alias = "customer_id")]
    customer: Option<String>,
    /// Filter by stage: subjects with an open or dead-lettered delivery at this stage.
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

impl ListSubjects {
    fn filter(self, kind: &SubjectKind) -> Answer<SubjectFilter> {
        let mut validator = QueryValidator::default();
        let filter = SubjectFilter {
            kind: Some(kind.name.clone()),
            since_ms: validator.instant("since", self.since.as_deref()),
            until_ms: validator.instant("until", self.until.as_deref()),
            before: validator.position("cursor", self.cursor),
            limit: validator.limit(self.limit),
            status: self.status,
            customer: self.customer,
            owner: None,
            stage: self.stage,
        };
        validator.finish().map(|()| filter)
    }
}

/// Lists subjects, newest first.
#[utoipa::path(get, path = "/kind", tag = "subjects", params(ListSubjects),
    responses((status = 200, body = Listing<SubjectSummary>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    requester: Requester,
    kind: OfKind,
    ValidQuery(query): ValidQuery<ListSubjects>,
) -> Answer<Json<Listing<Value>>> {
    let owner = requester.only_owner(&app).map(str::to_owned);
    let filter = SubjectFilter { owner, ..query.filter(&kind.0)? };
    let page = app.services().store.subjects(filter).await?;
    let payloads = requester.sees_payloads();
    let shown = |subject| named(&SubjectSummary::of(subject, &kind.0, payloads), &kind.0);
    let items = page.items.into_iter().map(shown).collect();
    Ok(Json(Listing { items, next: page.next }))
}
