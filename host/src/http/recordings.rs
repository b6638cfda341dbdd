//! `/stages/{stage}/recordings`: what a stage was given and decided, for running it again through
//! another plugin.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::lists::{OpaqueListing, QueryValidator};
use super::openapi::{page_size_schema, position_schema};
use super::paths::StageName;
use super::problem::Answer;
use crate::stage::recording::Recorded;
use crate::store::{RecordingCursor, RecordingFilter};

/// Which recordings.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only what was settled then or later, milliseconds since 1970-01-01 UTC.
    #[param(schema_with = position_schema)]
    since_ms: Option<i64>,
    /// Only this order's.
    order: Option<String>,
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{1,18}[.][0-9]{1,18}$")]
    cursor: Option<String>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// What a stage was given and decided, oldest first.
#[utoipa::path(get, path = "/stages/{stage}/recordings",
    operation_id = "recordings", tag = "stages",
    params(StageName, ListQuery),
    responses((status = 200, body = OpaqueListing<Recorded>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<OpaqueListing<Recorded>>> {
    let Query(query) = query?;
    let mut checked = QueryValidator::default();
    let since = checked
        .position("since_ms", query.since_ms)
        .map(RecordingCursor::before)
        .unwrap_or_default();
    let cursor: Option<RecordingCursor> = checked.parsed("cursor", query.cursor.as_deref());
    let limit = checked.limit(query.limit);
    checked.finish()?;
    let after = cursor.map_or(since, |cursor| cursor.max(since));
    let filter = RecordingFilter { stage: stage.clone(), order: query.order, after, limit };
    let (items, next) = app.services().store.recordings(filter).await?;
    let items = items.into_iter().map(|item| Recorded::of(&stage, item)).collect();
    Ok(Json(OpaqueListing { items, next: next.map(|next| next.to_string()) }))
}
