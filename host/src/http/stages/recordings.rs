//! `GET /stages/{stage}/recordings`: the inputs and decisions of a stage, to be replayed through
//! another plugin.
//!
//! [`Recorded`] is served as it is, because the same JSON is a line of the files that
//! `postrider replay` reads; its schema is in `openapi/recordings.rs`.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Shared;
use crate::http::openapi::{page_size_schema, position_schema, subject_schema};
use crate::http::problem::Answer;
use crate::http::request::{QueryValidator, StageName, ValidQuery};
use crate::stage::recording::Recorded;
use crate::store::{RecordingCursor, RecordingFilter};

/// Which recordings.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListRecordings {
    /// Filter by the time of settlement: at or after, milliseconds since 1970-01-01 UTC.
    #[param(schema_with = position_schema)]
    since_ms: Option<i64>,
    /// Filter by subject.
    #[param(schema_with = subject_schema)]
    subject: Option<String>,
    /// `next` of the previous page.
    #[param(pattern = "^[0-9]{1,18}[.][0-9]{1,18}$")]
    cursor: Option<String>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// A page of recordings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recordings {
    #[schema(schema_with = crate::http::openapi::recordings_schema)]
    items: Vec<Recorded>,
    /// The `cursor` of the next page; none at the end.
    next: Option<String>,
}

/// Lists what a stage recorded, oldest first.
#[utoipa::path(get, path = "/stages/{stage}/recordings", tag = "stages",
    params(StageName, ListRecordings),
    responses((status = 200, body = Recordings)))]
pub(crate) async fn recordings(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    ValidQuery(query): ValidQuery<ListRecordings>,
) -> Answer<Json<Recordings>> {
    let mut validator = QueryValidator::default();
    let since = validator
        .position("since_ms", query.since_ms)
        .map(RecordingCursor::before)
        .unwrap_or_default();
    let cursor: Option<RecordingCursor> = validator.parsed("cursor", query.cursor.as_deref());
    let subject = validator.parsed("subject", query.subject.as_deref());
    let limit = validator.limit(query.limit);
    validator.finish()?;
    let after = cursor.map_or(since, |cursor| cursor.max(since));
    let filter = RecordingFilter { stage: stage.clone(), subject, after, limit };
    let (items, next) = app.services().store.recordings(filter).await?;
    let items = items.into_iter().map(|item| Recorded::of(&stage, item)).collect();
    Ok(Json(Recordings { items, next: next.map(|next| next.to_string()) }))
}
