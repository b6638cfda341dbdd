//! Bodies: JSON in with a precise refusal, payloads out as JSON where they are.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use serde_json::Value;

use super::headers::content_type;
use super::problem::Problem;
use crate::domain::cloud_events::is_json;

/// A body of any kind.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(refuse)
    }
}

/// A JSON body; an empty one is `null`.
pub(super) struct JsonBody(pub(super) Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = content_type(request.headers()).is_some_and(is_json);
        let body = Bytes::from_request(request, state).await.map_err(refuse)?;
        if body.is_empty() {
            return Ok(Self(Value::Null));
        }
        if !is_json {
            return Err(Problem::media_type("send the header `content-type: application/json`"));
        }
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Problem::malformed(error.to_string()))
    }
}

fn refuse(rejection: BytesRejection) -> Problem {
    let text = rejection.to_string();
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        _ => Problem::malformed(text),
    }
}

/// A payload for people: JSON as it is, text as text, anything else as its size.
pub(super) fn payload(data: &[u8]) -> Value {
    match (serde_json::from_slice(data), std::str::from_utf8(data)) {
        (Ok(value), _) => value,
        (Err(_), Ok(text)) => Value::String(text.to_owned()),
        (Err(_), Err(_)) => Value::String(format!("{} bytes that are no text", data.len())),
    }
}
