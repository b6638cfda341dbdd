//! `POST /events`: takes CloudEvents over HTTP in structured, batch or binary mode.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::receipt::{EventsAccepted, accept, accept_all};
use crate::domain::access::{Permission, Requester, Target};
use crate::domain::body;
use crate::domain::cloud_events::ingress::{self, IngestedEvent, Mode};
use crate::domain::field_error::FieldError;
use crate::domain::json;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Payload, Schedule, content_type};

/// Sends one or more CloudEvents.
///
/// In structured or batch mode, as documented here, or in binary mode: attributes in `ce-…`
/// headers, data as the body.
#[utoipa::path(post, path = "/events", tag = "events", params(Schedule),
    request_body(content(
        (ref("#/components/schemas/CloudEvent") = "application/cloudevents+json"),
        (ref("#/components/schemas/CloudEvents") = "application/cloudevents-batch+json"),
    )),
    responses((status = 202, description = "Accepted", body = inline(EventsAccepted),
        headers(("Location" = String, description = "The event, when it is a single one"))),
        (status = 409, description = "The log has another event with this source and id",
            body = Problem)))]
#[expect(clippy::too_many_arguments, reason = "each argument extracts one part of the request")]
pub(crate) async fn ingest(
    State(app): State<Shared>,
    requester: Requester,
    trace: TraceContext,
    schedule: Schedule,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Answer<Response> {
    let content_type = content_type(&headers);
    let rules = app.ingress_rules();
    let has_attributes = headers.keys().any(|name| name.as_str().starts_with("ce-"));
    let event = match Mode::of(content_type.unwrap_or_default())? {
        Mode::Batch => {
            let batch = ingress::batch(check(&body)?, rules)
                .map_err(|errors| Problem::invalid("batch of events", errors))?;
            for one in &batch {
                let event_type = &one.event.event_type;
                requester.require(Permission::Submit, Target::Type(event_type))?;
            }
            let batch = batch.into_iter().map(|event| scheduled(event, &schedule)).collect();
            return accept_all(&app, batch, &trace).await;
        }
        Mode::Structured => ingress::structured(check(&body)?, rules),
        Mode::Binary if has_attributes => {
            let attributes = attributes(&headers)?;
            required(&attributes)
                .and_then(|()| ingress::binary(attributes, content_type, body, rules))
        }
        Mode::Binary | Mode::OtherFormat => {
            return Err(Problem::media_type(
                "send `application/cloudevents+json`, `application/cloudevents-batch+json`, or \
                 `ce-…` headers; or name the event's type in the path: `POST /events/{type}`",
            ));
        }
    };
    let event = event.map_err(|errors| Problem::invalid("event", errors))?;
    requester.require(Permission::Submit, Target::Type(&event.event.event_type))?;
    let (id, source) = (event.event.id.clone(), event.event.source.clone());
    let accepted = accept(&app, scheduled(event, &schedule), &trace).await?;
    accepted.ok_or_else(|| Problem::event_exists(&id, &source))
}

pub(super) fn check(body: &Bytes) -> Answer<&str> {
    json::check(body::without_bom(body)).map_err(|error| Problem::malformed(error.to_string()))
}

/// Every required attribute that is missing.
fn required(attributes: &BTreeMap<String, String>) -> Result<(), Vec<FieldError>> {
    let missing: Vec<FieldError> = ingress::missing(attributes)
        .into_iter()
        .map(|name| FieldError::at(format!("/{name}"), format!("missing header `ce-{name}`")))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The attributes in `ce-…` headers.
pub(super) fn attributes(headers: &HeaderMap) -> Answer<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        let value = value.to_str().ok().and_then(attribute).ok_or_else(|| {
            Problem::invalid_header(format!(
                "{header}: must be visible ASCII: percent-encoded UTF-8, or a quoted string"
            ))
        })?;
        if attributes.insert(name.to_owned(), value).is_some() {
            return Err(Problem::invalid_header(format!("{header}: given more than once")));
        }
    }
    Ok(attributes)
}

/// The value of a `ce-…` header: first a quoted string is unescaped, then percent-encoding is
/// decoded, as the HTTP binding of CloudEvents says (3.1.3.2).
fn attribute(text: &str) -> Option<String> {
    let text = if text.starts_with('"') { Cow::Owned(unquoted(text)?) } else { text.into() };
    percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
}

/// The text of a quoted string (RFC 9110, 5.6.4).
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"').filter(|rest| !rest.is_empty())?.strip_suffix('"')?;
    let (mut plain, mut characters) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(one) = characters.next() {
        plain.push(match one {
            '"' => return None,
            // A backslash before the last quote has escaped it: the string does not end.
            '\\' => characters.next()?,
            _ => one,
        });
    }
    Some(plain)
}

/// Applies the schedule of the headers, which takes precedence over the event's own.
pub(super) fn scheduled(event: IngestedEvent, Schedule(due_at_ms): &Schedule) -> IngestedEvent {
    IngestedEvent { due_at_ms: due_at_ms.or(event.due_at_ms), ..event }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_percent_encoded_headers_are_decoded() {
        for (text, expected) in [
            ("Euro", Some("Euro")),
            ("Euro%205%E2%82%AC", Some("Euro 5€")),
            (r#""Euro 5""#, Some("Euro 5")),
            (r#""Euro%205""#, Some("Euro 5")),
            (r#""a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            (r#""""#, Some("")),
            // A quote that is not the first character has no meaning.
            (r#"a"b""#, Some(r#"a"b""#)),
            ("100%", Some("100%")),
            (r#"""#, None),
            (r#""open"#, None),
            (r#""open\""#, None),
            (r#""a"b""#, None),
            (r#""a" b"#, None),
            ("%ff", None),
        ] {
            assert_eq!(attribute(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_attribute_is_given_once() {
        let mut headers = HeaderMap::new();
        headers.append("ce-id", "a".parse().unwrap());
        assert_eq!(attributes(&headers).ok().unwrap()["id"], "a");
        headers.append("ce-id", "b".parse().unwrap());
        assert!(attributes(&headers).is_err());
    }
}
