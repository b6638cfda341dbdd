//! `/events`: the log as a list, live, and as JSON lines; events of other programs come in.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::headers::{IdempotencyKey, Schedule, content_type, last_event_id, wants_stream};
use super::json::Body as Sent;
use super::lists::{Listing, QueryValidator};
use super::openapi::{instant_schema, page_size_schema, position_schema};
use super::paths::EventType;
use super::problem::{Answer, Problem};
use super::streams;
use crate::domain::cloud_events;
use crate::domain::cloud_events::http_binding::{self, IngestedEvent};
use crate::domain::event::{Event, EventKey};
use crate::domain::field_error::FieldError;
use crate::domain::trace_context::TraceContext;
use crate::store::{EventFilter, LogRange};

use self::view::EventView;

pub(super) mod view;

/// What of the log is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Only events of this order.
    order: Option<String>,
    /// Only events of this type.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only events of this source.
    source: Option<String>,
    /// Only what this stage emitted.
    stage: Option<String>,
    /// Only the chain that began with this event.
    correlation: Option<String>,
    /// Only what was logged then or later.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Only what was logged before then.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the page before: the position in the log after which this one begins.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

impl LogQuery {
    /// Every problem of the query at once.
    fn read(self) -> Answer<(EventFilter, Option<i64>, u32)> {
        let mut checked = QueryValidator::default();
        let since_ms = checked.instant("since", self.since.as_deref());
        let until_ms = checked.instant("until", self.until.as_deref());
        let cursor = checked.position("cursor", self.cursor);
        let limit = checked.limit(self.limit);
        checked.finish()?;
        let Self { order, event_type, source, stage, correlation, .. } = self;
        Ok((
            EventFilter { order, event_type, source, stage, correlation, since_ms, until_ms },
            cursor,
            limit,
        ))
    }
}

/// The event log, oldest first.
///
/// With `Accept: text/event-stream` it comes as server-sent events and goes on live;
/// `Last-Event-ID` goes on where a stream broke off.
#[utoipa::path(get, path = "/events", tag = "events", params(LogQuery),
    responses((status = 200, content((Listing<EventView> = "application/json"), (String = "text/event-stream")))))]
pub(super) async fn list(
    State(app): State<Shared>,
    query: Result<Query<LogQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Query(query) = query?;
    let (filter, cursor, limit) = query.read()?;
    let store = &app.services().store;
    if wants_stream(&headers) {
        let after = match last_event_id(&headers)?.or(cursor) {
            Some(after) => after,
            None if filter.since_ms.is_some() => 0,
            None => store.log_end().await?,
        };
        return streams::live(&app, filter, after);
    }
    let range = LogRange { after: cursor.unwrap_or(0), up_to: store.log_end().await?, limit };
    let page = store.events(filter, range).await?;
    let items = page.items.into_iter().map(EventView::of).collect();
    Ok(Json(Listing { items, next: page.next }).into_response())
}

/// The event log as JSON lines: one CloudEvent a line, oldest first, up to now.
#[utoipa::path(get, path = "/events/export", tag = "events", params(LogQuery),
    responses((status = 200, body = String, content_type = "application/x-ndjson",
        headers(("Content-Disposition" = String, description = "A name for the file")))))]
pub(super) async fn export(
    State(app): State<Shared>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Answer<Response> {
    let Query(query) = query?;
    let (filter, cursor, _) = query.read()?;
    let lines = streams::lines(&app, filter, cursor.unwrap_or(0)).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"events.jsonl\""),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Which of several events with the same id.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Its source; needed where several sources have an event of this id.
    source: Option<String>,
}

/// One event. Ids are unique per source only.
#[utoipa::path(get, path = "/events/{name}", tag = "events", params(("name" = String, Path, description = "The event's id"), ShowQuery),
    responses((status = 200, body = EventView), (status = 404, description = "The log holds no such event", body = Problem)))]
pub(super) async fn show(
    State(app): State<Shared>,
    Path(id): Path<String>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Answer<Json<EventView>> {
    let Query(ShowQuery { source }) = query?;
    let missing = || Problem::not_found(format!("no event `{id}`"));
    let found = match source {
        Some(source) => {
            app.event(&EventKey { source, id: id.clone() }).await?.ok_or_else(missing)?
        }
        None => {
            let mut found = app.services().store.events_by_id(&id).await?;
            if found.len() > 1 {
                return Err(Problem::bad_query(format!(
                    "source: {} sources have an event `{id}`; say which",
                    found.len()
                )));
            }
            found.pop().ok_or_else(missing)?
        }
    };
    Ok(Json(EventView::of(found)))
}

/// An event that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventReceipt {
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    /// When it falls due, if it is scheduled, milliseconds since 1970-01-01 UTC.
    due_at_ms: Option<u64>,
    /// Whether the log has an event of this source and id already: nothing was changed.
    duplicate: bool,
}

/// Events that were accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchReceipt {
    /// How many are new.
    accepted: usize,
    /// How many were here already.
    duplicates: usize,
    items: Vec<EventReceipt>,
}

/// One receipt, or those of a batch.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "stands for the two in the document")]
enum EventsAccepted {
    One(EventReceipt),
    Batch(BatchReceipt),
}

/// Sends an event whose type is in the path and whose data is the body.
///
/// Everything else may be said in `ce-…` headers, as the binary mode of CloudEvents over HTTP has
/// them.
#[utoipa::path(post, path = "/events/{name}", tag = "events", params(EventType, IdempotencyKey, Schedule),
    request_body(content((ref("#/components/schemas/Json") = "application/json"), (String = "text/plain"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 202, description = "Accepted", body = EventReceipt, headers(("Location" = String, description = "The event")))))]
pub(super) async fn send(
    State(app): State<Shared>,
    Path(EventType(event_type)): Path<EventType>,
    trace: TraceContext,
    IdempotencyKey(key): IdempotencyKey,
    Schedule(due_at_ms): Schedule,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Answer<Response> {
    let mut attributes = attributes(&headers)?;
    attributes.insert("type".to_owned(), event_type);
    if let Some(key) = key {
        attributes.entry("id".to_owned()).or_insert(key);
    }
    let arrival =
        http_binding::binary(attributes, content_type(&headers), body, app.ingress_rules());
    let arrival = arrival.map_err(|errors| Problem::invalid("an event", errors))?;
    accept(&app, IngestedEvent { due_at_ms: due_at_ms.or(arrival.due_at_ms), ..arrival }, &trace)
        .await
}

/// Sends a CloudEvent, or several.
///
/// In structured or batch mode, as documented here, or in binary mode: its attributes in `ce-…`
/// headers, its data as the body.
#[utoipa::path(post, path = "/events", tag = "events", params(Schedule),
    request_body(content(
        (ref("#/components/schemas/CloudEvent") = "application/cloudevents+json"),
        (ref("#/components/schemas/CloudEvents") = "application/cloudevents-batch+json"),
    )),
    responses((status = 202, description = "Accepted", body = inline(EventsAccepted), headers(("Location" = String, description = "The event, where it is one")))))]
pub(super) async fn ingest(
    State(app): State<Shared>,
    trace: TraceContext,
    Schedule(due_at_ms): Schedule,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Answer<Response> {
    let kind = cloud_events::media_type(content_type(&headers).unwrap_or_default());
    let is = |wanted: &str| kind.eq_ignore_ascii_case(wanted);
    let rules = app.ingress_rules();
    if is(cloud_events::BATCH) {
        let arrivals = http_binding::batch(document(&body)?, rules)
            .map_err(|errors| Problem::invalid("a batch of events", errors))?;
        let arrivals = arrivals
            .into_iter()
            .map(|one| IngestedEvent { due_at_ms: due_at_ms.or(one.due_at_ms), ..one })
            .collect();
        return accept_all(&app, arrivals, &trace).await;
    }
    let arrival = if is(cloud_events::STRUCTURED) {
        http_binding::structured(document(&body)?, rules)
    } else if headers.keys().any(|name| name.as_str().starts_with("ce-")) {
        let attributes = attributes(&headers)?;
        let missing = ["specversion", "id", "source", "type"]
            .into_iter()
            .filter(|name| !attributes.contains_key(*name));
        let missing = missing.map(|name| {
            FieldError::at(format!("/{name}"), format!("the header `ce-{name}` is missing"))
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            http_binding::binary(attributes, content_type(&headers), body, rules)
        } else {
            Err(missing)
        }
    } else {
        return Err(Problem::media_type(
            "send `application/cloudevents+json`, `application/cloudevents-batch+json`, or `ce-…` headers; or name the event's type in \
             the path: `POST /events/{type}`",
        ));
    };
    let arrival = arrival.map_err(|errors| Problem::invalid("an event", errors))?;
    accept(&app, IngestedEvent { due_at_ms: due_at_ms.or(arrival.due_at_ms), ..arrival }, &trace)
        .await
}

fn document(body: &Bytes) -> Answer<Value> {
    serde_json::from_slice(body).map_err(|error| Problem::malformed(error.to_string()))
}

/// Attributes in headers, as the HTTP binding of CloudEvents writes them: percent-encoded.
fn attributes(headers: &HeaderMap) -> Answer<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        let value =
            value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        let value = value.ok_or_else(|| {
            Problem::bad_header(format!("{header}: must be visible ASCII, percent-encoded UTF-8"))
        })?;
        attributes.insert(name.to_owned(), value.into_owned());
    }
    Ok(attributes)
}

async fn accept(
    app: &Shared,
    arrival: IngestedEvent,
    trace: &crate::domain::trace_context::TraceContext,
) -> Answer<Response> {
    let (place, receipt) = (place(&arrival.event), EventReceipt::of(&arrival));
    let new = app.ingest(vec![arrival], trace).await?;
    let receipt = EventReceipt { duplicate: new == [false], ..receipt };
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(receipt)).into_response())
}

async fn accept_all(
    app: &Shared,
    arrivals: Vec<IngestedEvent>,
    trace: &crate::domain::trace_context::TraceContext,
) -> Answer<Response> {
    let receipts: Vec<EventReceipt> = arrivals.iter().map(EventReceipt::of).collect();
    let new = app.ingest(arrivals, trace).await?;
    let accepted = new.iter().filter(|new| **new).count();
    let items = receipts
        .into_iter()
        .zip(&new)
        .map(|(receipt, new)| EventReceipt { duplicate: !new, ..receipt })
        .collect();
    Ok((
        StatusCode::ACCEPTED,
        Json(BatchReceipt { accepted, duplicates: new.len() - accepted, items }),
    )
        .into_response())
}

/// Where an event is found.
fn place(event: &Event) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!("/events/{}?source={}", encode(&event.id), encode(&event.source))
}

impl EventReceipt {
    fn of(arrival: &IngestedEvent) -> Self {
        let Event { id, source, event_type, .. } = arrival.event.clone();
        Self { id, source, event_type, due_at_ms: arrival.due_at_ms, duplicate: false }
    }
}
