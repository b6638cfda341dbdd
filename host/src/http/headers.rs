//! What requests ask for in headers: `Idempotency-Key`, `Deliver-At` and `Delay`, `Last-Event-ID`,
//! `Accept`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::Shared;
use super::openapi::{instant_schema, parameter};
use super::problem::{Answer, Problem};
use crate::domain::cloud_events::http_binding;
use crate::domain::cloud_events::media_type;

/// Longest idempotency key.
const KEY_MAX: usize = 128;

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a string, with or without its
/// quotes.
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let Some(value) = single(&parts.headers, "idempotency-key")? else { return Ok(Self(None)) };
        let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        let printable =
            bare.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if !(1..=KEY_MAX).contains(&bare.len()) || !printable {
            let rule = format!(
                "Idempotency-Key: must be 1 to {KEY_MAX} visible ASCII characters, without quotes or backslashes inside"
            );
            return Err(Problem::bad_header(rule));
        }
        Ok(Self(Some(bare.to_owned())))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let pattern = format!("^([!#-\\[\\]-~]{{1,{KEY_MAX}}}|\"[!#-\\[\\]-~]{{1,{KEY_MAX}}}\")$");
        let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        vec![header("Idempotency-Key", "Names the request: sent again, it counts once", schema)]
    }
}

/// `Deliver-At` (RFC 3339, or milliseconds since 1970) or `Delay` (`90s`, `2d`); none: at once.
pub(super) struct Schedule(pub(super) Option<u64>);

impl FromRequestParts<Shared> for Schedule {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Answer<Self> {
        let (at, delay) = (single(&parts.headers, "deliver-at")?, single(&parts.headers, "delay")?);
        let name = if at.is_some() { "Deliver-At" } else { "Delay" };
        http_binding::schedule(at, delay, app.ingress_rules())
            .map(Self)
            .map_err(|detail| Problem::bad_header(format!("{name}: {detail}")))
    }
}

impl IntoParams for Schedule {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let span = ObjectBuilder::new().schema_type(Type::String).examples(["90s", "2d"]);
        vec![
            header(
                "Deliver-At",
                "When its journey begins; at the latest as far ahead as `orders.schedule_max_ms`",
                instant_schema(),
            ),
            header("Delay", "Or how long from now: `90s`, `30m`, `2d`, or ISO 8601", span),
        ]
    }
}

fn header(name: &str, description: &str, schema: impl Into<Schema>) -> Parameter {
    parameter(ParameterIn::Header, name, description, schema)
}

/// The position after which a stream goes on; none: it begins.
pub(super) fn last_event_id(headers: &HeaderMap) -> Answer<Option<i64>> {
    let Some(text) = single(headers, "last-event-id")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let position = text.parse().ok().filter(|position| *position >= 0);
    position.map(Some).ok_or_else(|| {
        Problem::bad_header(format!("Last-Event-ID: `{text}` is no position in the event log"))
    })
}

/// The media type of a body, with its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Whether the answer shall be a live stream of server-sent events.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| media_type(kind).eq_ignore_ascii_case("text/event-stream"))
}

/// A header that may be given once, and is text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Answer<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| Problem::bad_header(format!("{name}: must be visible ASCII"))),
        (Some(_), Some(_)) => Err(Problem::bad_header(format!("{name}: is given twice"))),
    }
}
