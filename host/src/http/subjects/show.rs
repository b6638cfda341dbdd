//! `GET /<path of the kind>/{id}`: shows one subject.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::OfKind;
use super::view::{SubjectView, named};
use crate::domain::access::Requester;
use crate::http::Shared;
use crate::http::openapi::{page_size_schema, position_schema};
use crate::http::problem::{Answer, Problem};
use crate::http::request::{QueryValidator, SubjectId, ValidQuery};

/// Which part of the timeline.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowSubject {
    /// `next` of the previous page: the position in the event log after which the page starts.
    #[param(schema_with = position_schema)]
    after: Option<i64>,
    /// Page size, in events.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Shows a subject with its deliveries.
///
/// The timeline has the deliveries of one page of events.
#[utoipa::path(get, path = "/kind/{id}", tag = "subjects", params(SubjectId, ShowSubject),
    responses(
        (status = 200, body = SubjectView),
        (status = 404, description = "No subject has this id", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    requester: Requester,
    kind: OfKind,
    Path(SubjectId(id)): Path<SubjectId>,
    ValidQuery(query): ValidQuery<ShowSubject>,
) -> Answer<Json<Value>> {
    let mut validator = QueryValidator::default();
    let after = validator.position("after", query.after).unwrap_or(0);
    let limit = validator.limit(query.limit);
    validator.finish()?;
    let history = app.history(&kind.key(&id)?, after, limit).await?;
    let history = history.filter(|history| requester.may_see(&app, &history.subject));
    let history = history.ok_or_else(|| kind.missing(&id))?;
    let view = SubjectView::of(history, &kind.0, requester.sees_payloads());
    Ok(Json(named(&view, &kind.0)))
}
