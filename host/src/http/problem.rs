//! Problem documents (RFC 9457): every error of the API is one, with `type`, `title`, `status`,
//! `detail`, and for invalid bodies a list of errors with their places.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::kind::Kind;
use super::prefix::Prefix;
use crate::domain::body::ACCEPTED_ENCODING;
use crate::domain::field_error::FieldError;
use crate::store::StoreError;

mod kind;
pub(super) mod routes;

/// An error as the client sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Stable; relative to this host, which explains it at that address.
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    /// The same for every problem of this type.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// What is wrong with this request.
    detail: String,
    /// Every problem of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldErrorView>,
    /// After how many seconds a retry may succeed: a header.
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

/// A problem of one field of a body.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = FieldError)]
pub(crate) struct FieldErrorView {
    /// JSON pointer (RFC 6901) to the field.
    pointer: String,
    /// What is wrong there, and what is expected.
    detail: String,
}

impl From<FieldError> for FieldErrorView {
    fn from(FieldError { pointer, detail }: FieldError) -> Self {
        Self { pointer, detail }
    }
}

pub(crate) type Answer<T> = Result<T, Problem>;

/// Media type of a problem document.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind: Cow::Borrowed(kind.uri),
            title: kind.title,
            status: kind.status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: (kind == Kind::UNAVAILABLE).then_some(1),
        }
    }

    /// The same where the API is served below a prefix.
    pub(super) fn below(self, prefix: &Prefix) -> Self {
        Self { kind: Cow::Owned(prefix.join(&self.kind)), ..self }
    }

    /// A body that is JSON, but not a valid `name`.
    pub(crate) fn invalid(name: &str, errors: Vec<FieldError>) -> Self {
        let problems = if errors.len() == 1 { "problem" } else { "problems" };
        let detail = format!("invalid {name}: {} {problems}, see `errors`", errors.len());
        let errors = errors.into_iter().map(Into::into).collect();
        Self { errors, ..Self::new(Kind::INVALID_BODY, detail) }
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Kind::MALFORMED_JSON, detail)
    }

    pub(crate) fn ambiguous_event(detail: impl Into<String>) -> Self {
        Self::new(Kind::AMBIGUOUS_EVENT, detail)
    }

    pub(crate) fn event_exists(id: &str, source: &str) -> Self {
        Self::new(
            Kind::EVENT_EXISTS,
            format!("event `{id}` of `{source}` exists with different contents"),
        )
    }

    pub(crate) fn invalid_query(detail: impl Into<String>) -> Self {
        Self::new(Kind::INVALID_QUERY, detail)
    }

    pub(crate) fn invalid_header(detail: impl Into<String>) -> Self {
        Self::new(Kind::INVALID_HEADER, detail)
    }

    pub(crate) fn key_reused() -> Self {
        Self::new(
            Kind::IDEMPOTENCY_KEY_REUSED,
            "idempotency key reused with a different request: use a new key for each request",
        )
    }

    pub(crate) fn media_type(detail: impl Into<String>) -> Self {
        Self::new(Kind::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    pub(crate) fn too_large() -> Self {
        Self::new(
            Kind::BODY_TOO_LARGE,
            "the body is larger than the host accepts (`http.body_max_bytes`)",
        )
    }

    pub(crate) fn too_large_for_broker(bytes: usize, limit: usize) -> Self {
        let detail = format!(
            "the event has {bytes} bytes of data, and the broker refuses messages of more than \
             {limit} (`max_message_size` of RabbitMQ)"
        );
        Self::new(Kind::BODY_TOO_LARGE, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NOT_FOUND, detail)
    }

    pub(crate) fn internal() -> Self {
        Self::new(Kind::INTERNAL_ERROR, "the host failed to handle the request; see its log")
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::UNAVAILABLE, detail)
    }

    /// A client that may send its next request after `wait_s` seconds.
    pub(super) fn too_many_requests(detail: impl Into<String>, wait_s: u64) -> Self {
        Self { retry_after_s: Some(wait_s), ..Self::new(Kind::TOO_MANY_REQUESTS, detail) }
    }

    /// Its status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// A status that needs no further detail.
    pub(crate) fn of(status: StatusCode) -> Self {
        Self { status: status.as_u16(), ..Self::new(Kind::BAD_REQUEST, status.to_string()) }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during a request");
        match error {
            StoreError::Unavailable(_)
            | StoreError::Contended
            | StoreError::StateUnavailable { .. } => {
                Self::unavailable("the store does not answer, retry")
            }
            StoreError::Rejected { message, .. } => Self::new(
                Kind::UNSTORABLE,
                format!("the database cannot store the values: {message}"),
            ),
            StoreError::Corrupt(_) => Self::internal(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let is_encoding = self.kind == Kind::UNSUPPORTED_ENCODING.uri;
        let challenge = match &*self.kind {
            kind if kind == Kind::UNAUTHENTICATED.uri => Some("Bearer realm=\"postrider\""),
            kind if kind == Kind::INVALID_CREDENTIALS.uri => {
                Some("Bearer realm=\"postrider\", error=\"invalid_token\"")
            }
            _ => None,
        };
        let retry_after_s = self.retry_after_s;
        let mut response = (status, axum::Json(&self)).into_response();
        // Below a prefix it is written again.
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if is_encoding {
            let accepted = HeaderValue::from_static(ACCEPTED_ENCODING);
            headers.insert(header::ACCEPT_ENCODING, accepted);
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(wait_s) = retry_after_s {
            headers.insert(header::RETRY_AFTER, wait_s.into());
        }
        response
    }
}
