//! `GET /events/export`: the event log as JSON lines.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::list::{EventQuery, ListEvents};
use super::stream::lines;
use crate::http::Shared;
use crate::http::auth::streams::StreamCredential;
use crate::http::problem::Answer;
use crate::http::request::ValidQuery;

/// Exports the event log as JSON lines: one CloudEvent per line, oldest first, up to now.
#[utoipa::path(get, path = "/events/export", tag = "events", params(ListEvents),
    responses((status = 200, body = String, content_type = "application/x-ndjson",
        headers(("Content-Disposition" = String, description = "A name for the file")))))]
pub(crate) async fn export(
    State(app): State<Shared>,
    credential: StreamCredential,
    ValidQuery(query): ValidQuery<ListEvents>,
) -> Answer<Response> {
    let EventQuery { filter, cursor, .. } = query.validate()?;
    let lines = lines(&app, credential, filter, cursor.unwrap_or(0)).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"events.jsonl\""),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}
