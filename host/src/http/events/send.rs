//! `POST /events/{type}`: sends one event whose data is the body.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::ingest::{attributes, scheduled};
use super::receipt::{EventReceipt, accept};
use crate::domain::cloud_events::ingress;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{EventType, IdempotencyKey, Payload, Schedule, content_type};

/// Sends an event whose type is in the path and whose data is the body.
///
/// Other attributes may be given in `ce-…` headers, as in the binary mode of CloudEvents over
/// HTTP.
#[utoipa::path(post, path = "/events/{name}", tag = "events",
    params(EventType, IdempotencyKey, Schedule),
    request_body(content(
        (ref("#/components/schemas/Json") = "application/json"),
        (String = "text/plain"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses((status = 202, description = "Accepted", body = EventReceipt,
        headers(("Location" = String, description = "The event"))),
        (status = 409, description = "The log has another event with this source and id",
            body = Problem)))]
#[expect(clippy::too_many_arguments, reason = "each argument extracts one part of the request")]
pub(crate) async fn send(
    State(app): State<Shared>,
    Path(EventType(event_type)): Path<EventType>,
    trace: TraceContext,
    IdempotencyKey(key): IdempotencyKey,
    schedule: Schedule,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Answer<Response> {
    ingress::check_text(content_type(&headers).unwrap_or_default())?;
    let mut attributes = attributes(&headers)?;
    attributes.insert("type".to_owned(), event_type);
    if let Some(key) = &key {
        let id = attributes.entry("id".to_owned()).or_insert_with(|| key.clone());
        if id != key {
            return Err(Problem::invalid_header(
                "Idempotency-Key: names another event than `ce-id`: give only one of them",
            ));
        }
    }
    let ingested = ingress::binary(attributes, content_type(&headers), body, app.ingress_rules())
        .map_err(|errors| Problem::invalid("event", errors))?;
    let (id, source) = (ingested.event.id.clone(), ingested.event.source.clone());
    let accepted = accept(&app, scheduled(ingested, &schedule), &trace).await?;
    accepted.ok_or_else(|| match key {
        Some(_) => Problem::key_reused(),
        None => Problem::event_exists(&id, &source),
    })
}
