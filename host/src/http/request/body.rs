//! Request bodies: bytes as they are, any JSON, or a JSON object that is checked field by field.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use serde_json::Value;

use super::fields::Fields;
use super::headers::content_type;
use crate::domain::body::{self, BodyError};
use crate::domain::cloud_events::is_json;
use crate::domain::json;
use crate::http::problem::{Kind, Problem};

/// A body of any media type.
pub(crate) struct Payload(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(refuse)
    }
}

/// A JSON object whose fields are all known, for [`Parsed`].
pub(crate) trait RequestBody: Sized {
    /// What the body is, for "invalid …".
    const NAME: &'static str;
    /// The fields that it may have; all others are refused.
    const FIELDS: &'static [&'static str];

    /// Takes the fields; problems are collected in `fields`.
    fn take(fields: &mut Fields) -> Self;
}

/// Any JSON; without a body it is `null`.
pub(crate) struct JsonBody(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = content_type(request.headers()).unwrap_or_default();
        let (is_json, readable) = (is_json(content_type), body::check_charset(content_type));
        let Payload(body) = Payload::from_request(request, state).await?;
        if body.is_empty() {
            return Ok(Self(Value::Null));
        }
        if !is_json {
            return Err(Problem::media_type("send the header `content-type: application/json`"));
        }
        readable?;
        json::parse(body::without_bom(&body))
            .map(Self)
            .map_err(|error| Problem::malformed(error.to_string()))
    }
}

/// A JSON object, read and checked before the handler runs. Without a body it has no fields.
pub(crate) struct Parsed<T>(pub(crate) T);

impl<S: Send + Sync, T: RequestBody> FromRequest<S> for Parsed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let JsonBody(body) = JsonBody::from_request(request, state).await?;
        let mut fields = Fields::new(body, T::FIELDS);
        let read = T::take(&mut fields);
        fields.finish(T::NAME).map(|()| Self(read))
    }
}

fn refuse(rejection: BytesRejection) -> Problem {
    let text = rejection.to_string();
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        _ => Problem::malformed(text),
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Encoding(_) => Self::new(Kind::UNSUPPORTED_ENCODING, error.to_string()),
            BodyError::NotGzip(_) => Self::invalid_header(error.to_string()),
            BodyError::TooLarge(_) => Self::too_large(),
            BodyError::Charset(_) => Self::media_type(error.to_string()),
        }
    }
}

/// A payload in an answer: JSON as it is, text as a string, anything else as its size.
pub(crate) fn json_or_text(data: &[u8]) -> Value {
    match (serde_json::from_slice(data), std::str::from_utf8(data)) {
        (Ok(value), _) => value,
        (Err(_), Ok(text)) => Value::String(text.to_owned()),
        (Err(_), Err(_)) => Value::String(format!("{} bytes of binary data", data.len())),
    }
}
