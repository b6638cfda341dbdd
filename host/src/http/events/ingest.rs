//! `POST /events`: takes CloudEvents over HTTP in structured, batch or binary mode.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::receipt::{EventsAccepted, accept, accept_all};
use crate::domain::cloud_events;
use crate::domain::cloud_events::http_binding::{self, IngestedEvent};
use crate::domain::field_error::FieldError;
use crate::domain::json;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Payload, Schedule, content_type};

/// Attributes without which an event in binary mode is refused.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

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
        headers(("Location" = String, description = "The event, when it is a single one")))))]
pub(crate) async fn ingest(
    State(app): State<Shared>,
    trace: TraceContext,
    schedule: Schedule,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Answer<Response> {
    let media_type = cloud_events::media_type(content_type(&headers).unwrap_or_default());
    let rules = app.ingress_rules();
    if media_type.eq_ignore_ascii_case(cloud_events::BATCH) {
        let batch = http_binding::batch(check(&body)?, rules)
            .map_err(|errors| Problem::invalid("batch of events", errors))?;
        let batch = batch.into_iter().map(|event| scheduled(event, &schedule)).collect();
        return accept_all(&app, batch, &trace).await;
    }
    let event = if media_type.eq_ignore_ascii_case(cloud_events::STRUCTURED) {
        http_binding::structured(check(&body)?, rules)
    } else if headers.keys().any(|name| name.as_str().starts_with("ce-")) {
        let attributes = attributes(&headers)?;
        required(&attributes)
            .and_then(|()| http_binding::binary(attributes, content_type(&headers), body, rules))
    } else {
        return Err(Problem::media_type(
            "send `application/cloudevents+json`, `application/cloudevents-batch+json`, or `ce-…` \
             headers; or name the event's type in the path: `POST /events/{type}`",
        ));
    };
    let event = event.map_err(|errors| Problem::invalid("event", errors))?;
    accept(&app, scheduled(event, &schedule), &trace).await
}

fn check(body: &Bytes) -> Answer<&str> {
    json::check(body).map_err(|error| Problem::malformed(error.to_string()))
}

/// Every required attribute that is missing.
fn required(attributes: &BTreeMap<String, String>) -> Result<(), Vec<FieldError>> {
    let missing: Vec<FieldError> = REQUIRED
        .into_iter()
        .filter(|name| !attributes.contains_key(*name))
        .map(|name| FieldError::at(format!("/{name}"), format!("missing header `ce-{name}`")))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The attributes in `ce-…` headers, percent-decoded as the HTTP binding of CloudEvents requires.
pub(super) fn attributes(headers: &HeaderMap) -> Answer<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        let value =
            value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        let value = value.ok_or_else(|| {
            Problem::invalid_header(format!(
                "{header}: must be visible ASCII, percent-encoded UTF-8"
            ))
        })?;
        attributes.insert(name.to_owned(), value.into_owned());
    }
    Ok(attributes)
}

/// Applies the schedule of the headers, which takes precedence over the event's own.
pub(super) fn scheduled(event: IngestedEvent, Schedule(due_at_ms): &Schedule) -> IngestedEvent {
    IngestedEvent { due_at_ms: due_at_ms.or(event.due_at_ms), ..event }
}
