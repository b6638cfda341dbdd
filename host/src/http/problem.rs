//! Problem documents (RFC 9457): `type`, `title`, `status`, `detail`, and every single error with its place.

use axum::body::Body;
use axum::extract::Request;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::orders;
use crate::store::StoreError;

/// An error as the client sees it.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// Stable; relative to this host.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<orders::Problem>,
}

pub(super) type Answer<T> = Result<T, Problem>;

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, title, status: status.as_u16(), detail: detail.into(), errors: Vec::new() }
    }

    pub(super) fn invalid(title: &'static str, errors: Vec<orders::Problem>) -> Self {
        let detail = format!("{} problem(s); see `errors`", errors.len());
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "/problems/invalid-body", title, detail) }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "/problems/malformed-json", "The body is not JSON", detail)
    }

    pub(super) fn bad_query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "/problems/bad-query", "The query cannot be understood", detail)
    }

    pub(super) fn bad_header(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "/problems/bad-header", "A header cannot be understood", detail)
    }

    pub(super) fn key_reused() -> Self {
        let detail = "the `Idempotency-Key` was used with another body: give each request a key of its own";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "/problems/key-reused", "The key stands for another request", detail)
    }

    pub(super) fn not_cloud_events() -> Self {
        let detail = "send `application/cloudevents+json`, `application/cloudevents-batch+json`, or `ce-…` headers; \
                      or name the event's type in the path: `POST /events/{type}`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "/problems/media-type", "The request must be a CloudEvent", detail)
    }

    /// What is wrong, in a sentence.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn media_type() -> Self {
        let detail = "send the header `content-type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "/problems/media-type", "The body must be JSON", detail)
    }

    pub(super) fn too_large() -> Self {
        let detail = "the body is larger than the host takes (`http.body_max_bytes`)";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "/problems/too-large", "The body is too large", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "/problems/not-found", "There is no such thing", detail)
    }

    pub(super) fn conflict(kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    pub(super) fn internal() -> Self {
        let detail = "the host has a bug; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "/problems/internal", "The host failed", detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "The host cannot do this now", detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed in the store");
        match error {
            StoreError::Unavailable(_) => Self::unavailable("the store does not answer; try again"),
            StoreError::Corrupt(_) => Self::internal(),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_query(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response<Body> {
    Problem::internal().into_response()
}

pub(super) async fn no_such_route(request: Request) -> Problem {
    Problem::not_found(format!("no route {}", request.uri().path()))
}

pub(super) async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "/problems/method", "The method is not allowed", detail)
}

/// Errors that the layers below made without a body get one.
pub(super) async fn dress(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let dressed = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
    match response.status() {
        status if dressed || !(status.is_client_error() || status.is_server_error()) => response,
        StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable("the request took too long").into_response(),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large().into_response(),
        status => Problem::new(status, "/problems/request", "The request cannot be served", status.to_string()).into_response(),
    }
}
