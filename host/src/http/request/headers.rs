//! Request headers: `Idempotency-Key`, `Deliver-At` and `Delay`, `Last-Event-ID`, `Accept`,
//! `Content-Type`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::domain::cloud_events::ingress;
use crate::domain::cloud_events::media_type;
use crate::http::Shared;
use crate::http::openapi::{instant_schema, parameter};
use crate::http::problem::{Answer, Problem};

/// Longest idempotency key, in characters.
const KEY_MAX: usize = 128;

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a string, with or without its
/// quotes.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let Some(value) = single(&parts.headers, "idempotency-key")? else { return Ok(Self(None)) };
        let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        let printable =
            bare.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if !(1..=KEY_MAX).contains(&bare.len()) || !printable {
            let rule = format!(
                "Idempotency-Key: must be 1 to {KEY_MAX} visible ASCII characters without \
                 quotes or backslashes"
            );
            return Err(Problem::invalid_header(rule));
        }
        Ok(Self(Some(bare.to_owned())))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let pattern = format!("^([!#-\\[\\]-~]{{1,{KEY_MAX}}}|\"[!#-\\[\\]-~]{{1,{KEY_MAX}}}\")$");
        let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        vec![header(
            "Idempotency-Key",
            "Names the request: repeated under the same key, it takes effect once",
            schema,
        )]
    }
}

/// When the first event is delivered, milliseconds since 1970-01-01 UTC: from `Deliver-At` (RFC
/// 3339, or milliseconds) or `Delay` (`90s`, `2d`); none: immediately.
pub(crate) struct Schedule(pub(crate) Option<u64>);

impl FromRequestParts<Shared> for Schedule {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Answer<Self> {
        let (at, delay) = (single(&parts.headers, "deliver-at")?, single(&parts.headers, "delay")?);
        let name = if at.is_some() { "Deliver-At" } else { "Delay" };
        ingress::schedule(at, delay, app.ingress_rules())
            .map(Self)
            .map_err(|detail| Problem::invalid_header(format!("{name}: {detail}")))
    }
}

impl IntoParams for Schedule {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let span = ObjectBuilder::new().schema_type(Type::String).examples(["90s", "2d"]);
        vec![
            header(
                "Deliver-At",
                "When delivery starts; at most `events.schedule_max_ms` ahead",
                instant_schema(),
            ),
            header(
                "Delay",
                "Alternatively, the time from now: `90s`, `30m`, `2d`, or ISO 8601",
                span,
            ),
        ]
    }
}

fn header(name: &str, description: &str, schema: impl Into<Schema>) -> Parameter {
    parameter(ParameterIn::Header, name, description, schema)
}

/// The position after which a stream resumes; none: it starts.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Answer<Option<i64>> {
    let Some(text) = single(headers, "last-event-id")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let position = text.parse().ok().filter(|position| *position >= 0);
    position.map(Some).ok_or_else(|| {
        Problem::invalid_header(format!(
            "Last-Event-ID: `{text}` is not a position in the event log"
        ))
    })
}

/// The media type of the body, with its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// The content encodings of the body, separated by commas; empty: none.
pub(crate) fn content_encoding(headers: &HeaderMap) -> Answer<String> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str());
    let values = values.collect::<Result<Vec<&str>, _>>();
    values
        .map(|values| values.join(","))
        .map_err(|_| Problem::invalid_header("Content-Encoding: must be visible ASCII"))
}

/// Whether the client asks for server-sent events.
pub(crate) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| media_type(kind).eq_ignore_ascii_case("text/event-stream"))
}

/// A text header that may occur once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Answer<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| Problem::invalid_header(format!("{name}: must be visible ASCII"))),
        (Some(_), Some(_)) => Err(Problem::invalid_header(format!("{name}: given more than once"))),
    }
}
