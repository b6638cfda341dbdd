//! `/stages/{stage}/recordings`: what a stage was given and decided, for running it again through another plugin.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::orders::page_size;
use super::problem::{Answer, Problem};
use crate::recording::Recorded;
use crate::store::{RecordingCursor, RecordingFilter};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    since_ms: Option<u64>,
    order: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(app): State<Shared>,
    Path(stage): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let limit = page_size(query.limit)?;
    let since = query.since_ms.map(RecordingCursor::before).unwrap_or_default();
    let cursor = query.cursor.as_deref().map(str::parse::<RecordingCursor>).transpose();
    let after = cursor.map_err(|error| Problem::bad_query(format!("cursor: {error}")))?.map_or(since, |cursor| cursor.max(since));
    let filter = RecordingFilter { stage: stage.clone(), order: query.order, after, limit };
    let (items, next) = app.services().store.recordings(filter).await?;
    let items: Vec<Recorded> = items.into_iter().map(|item| Recorded::of(&stage, item)).collect();
    Ok(Json(json!({ "items": items, "next": next.map(|next| next.to_string()) })))
}
