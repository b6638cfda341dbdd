//! `/metrics`: the metrics of this host, in the OpenMetrics text format for those who ask for it, else in
//! Prometheus' own.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::{Answer, Problem};
use crate::app::{HostMetrics, MetricsFormat};

/// Returns the metrics of this host: in the OpenMetrics text format if the request accepts it, else in
/// Prometheus' own.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, content((String = "text/plain"), (String = "application/openmetrics-text")))))]
pub(crate) async fn metrics(State(app): State<Shared>, headers: HeaderMap) -> Answer<Response> {
    of([&app], &headers)
}

/// The metrics of some namespaces, in a format that the request accepts.
pub(super) fn of<'a>(
    apps: impl IntoIterator<Item = &'a Shared>,
    headers: &HeaderMap,
) -> Answer<Response> {
    let (format, content_type) = if accepts_openmetrics(headers) {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (MetricsFormat::OpenMetrics, content_type)
    } else {
        (MetricsFormat::Prometheus, "text/plain; version=0.0.4; charset=utf-8")
    };
    let text = HostMetrics::text(apps, format).map_err(|_| Problem::internal())?;
    Ok(([(header::CONTENT_TYPE, content_type), (header::VARY, "accept")], text).into_response())
}

/// Whether the request names the format. Prometheus prefers it and lists the others after it.
fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.trim().parse::<mime::Mime>().ok())
        .any(|range| range.essence_str() == "application/openmetrics-text")
}
