//! `/metrics`: the metrics of this host, in the OpenMetrics text format.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::{Answer, Problem};
use crate::app::HostMetrics;

/// Returns the metrics of this host in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(app): State<Shared>) -> Answer<Response> {
    of([&app])
}

/// The metrics of some namespaces.
pub(super) fn of<'a>(apps: impl IntoIterator<Item = &'a Shared>) -> Answer<Response> {
    const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = HostMetrics::text(apps).map_err(|_| Problem::internal())?;
    Ok(([(header::CONTENT_TYPE, FORMAT)], text).into_response())
}
