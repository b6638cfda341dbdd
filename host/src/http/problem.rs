//! Problem documents (RFC 9457): `type`, `title`, `status`, `detail`, and every single error with
//! its place.

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

pub(super) use self::kind::{Kind, ProblemKind};
use crate::domain::field_error::FieldError;
use crate::store::StoreError;

mod kind;

/// An error as the client sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Stable; relative to this host, which explains it there.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The same for every problem of this type.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// What was wrong with this request, and what helps.
    detail: String,
    /// Everything that is wrong with the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

pub(super) type Answer<T> = Result<T, Problem>;

/// Media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let described = kind.describe();
        Self {
            kind: described.uri,
            title: described.title,
            status: described.status,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// A body that is JSON and not what it must be; `wanted` names that.
    pub(super) fn invalid(wanted: &str, errors: Vec<FieldError>) -> Self {
        let detail = format!("the body is not {wanted}: {} problem(s), see `errors`", errors.len());
        Self { errors, ..Self::new(Kind::InvalidBody, detail) }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Kind::MalformedJson, detail)
    }

    pub(super) fn bad_query(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadQuery, detail)
    }

    pub(super) fn bad_header(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadHeader, detail)
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            Kind::KeyReused,
            "the `Idempotency-Key` was used with another body: give each request a key of its own",
        )
    }

    pub(super) fn media_type(detail: impl Into<String>) -> Self {
        Self::new(Kind::MediaType, detail)
    }

    pub(super) fn too_large() -> Self {
        Self::new(Kind::TooLarge, "the body is larger than the host takes (`http.body_max_bytes`)")
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    pub(super) fn internal() -> Self {
        Self::new(Kind::Internal, "the host has a bug; its log says more")
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
    }

    /// A status that says all there is to say.
    pub(super) fn of(status: StatusCode) -> Self {
        Self { status: status.as_u16(), ..Self::new(Kind::Request, status.to_string()) }
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
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
