//! `/events`: the log as a list, live, and as JSON lines; events of other programs come in.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::caller::Caller;
use super::headers::{IdempotencyKey, Schedule, last_event_id, wants_stream};
use super::json::{Body as Sent, payload};
use super::orders::page_size;
use super::problem::{Answer, Problem};
use super::streams;
use crate::cloud_events;
use crate::event::{Event, EventKey};
use crate::ingress::{self, Arrival};
use crate::store::{EventFilter, LogRange, LoggedEvent};
use crate::times;

/// An event for people and programs.
pub(super) fn shown(logged: &LoggedEvent) -> Value {
    let event = &logged.envelope.event;
    json!({
        "seq": logged.seq,
        "id": event.id,
        "type": event.event_type,
        "source": event.source,
        "subject": event.subject,
        "order_id": logged.envelope.order_id,
        "time_ms": event.time_ms,
        "logged_at_ms": logged.logged_at_ms,
        "due_at_ms": logged.due_at_ms,
        "content_type": event.content_type,
        "data": payload(&event.data),
        "attributes": event.attributes.iter().cloned().collect::<BTreeMap<_, _>>(),
        "correlation_id": logged.envelope.correlation_id,
        "cause": logged.envelope.cause,
        "stage": logged.stage,
        "digest": logged.digest,
        "routed_to": logged.routed_to,
    })
}

/// What of the log is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    order: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    source: Option<String>,
    stage: Option<String>,
    correlation: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// The position after which the page begins.
    cursor: Option<i64>,
    limit: Option<u32>,
}

impl LogQuery {
    /// Every problem of the query at once.
    fn read(self) -> Answer<(EventFilter, Option<i64>, u32)> {
        let mut problems = Vec::new();
        let since_ms = instant("since", self.since.as_deref(), &mut problems);
        let until_ms = instant("until", self.until.as_deref(), &mut problems);
        if self.cursor.is_some_and(|cursor| cursor < 0) {
            problems.push("cursor: must be a position in the event log".to_owned());
        }
        let limit = page_size(self.limit).unwrap_or_else(|problem| {
            problems.push(problem.detail().to_owned());
            0
        });
        if !problems.is_empty() {
            return Err(Problem::bad_query(problems.join("; ")));
        }
        let Self { order, event_type, source, stage, correlation, cursor, .. } = self;
        Ok((EventFilter { order, event_type, source, stage, correlation, since_ms, until_ms }, cursor, limit))
    }
}

/// A time in a query.
pub(super) fn instant(name: &str, text: Option<&str>, problems: &mut Vec<String>) -> Option<u64> {
    text.map(times::instant_ms)?.map_err(|problem| problems.push(format!("{name}: {problem}"))).ok()
}

/// The log, oldest first; with `Accept: text/event-stream` it goes on live.
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
    let items: Vec<Value> = page.items.iter().map(shown).collect();
    Ok(Json(json!({ "items": items, "next": page.next })).into_response())
}

/// The log as JSON lines: one `CloudEvent` a line, oldest first, up to now.
pub(super) async fn export(State(app): State<Shared>, query: Result<Query<LogQuery>, QueryRejection>) -> Answer<Response> {
    let Query(query) = query?;
    let (filter, cursor, _) = query.read()?;
    let lines = streams::lines(&app, filter, cursor.unwrap_or(0)).await?;
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CONTENT_DISPOSITION, "attachment; filename=\"events.jsonl\"")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    source: Option<String>,
}

/// One event. Ids are unique per source only.
pub(super) async fn show(
    State(app): State<Shared>,
    Path(id): Path<String>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Query(ShowQuery { source }) = query?;
    let missing = || Problem::not_found(format!("no event `{id}`"));
    let found = match source {
        Some(source) => app.event(&EventKey { source, id: id.clone() }).await?.ok_or_else(missing)?,
        None => {
            let mut found = app.services().store.events_by_id(&id).await?;
            if found.len() > 1 {
                return Err(Problem::bad_query(format!("source: {} sources have an event `{id}`; say which", found.len())));
            }
            found.pop().ok_or_else(missing)?
        }
    };
    Ok(Json(shown(&found)))
}

/// An event whose type is in the path and whose data is the body; everything else may be said in `ce-…` headers.
pub(super) async fn send(
    State(app): State<Shared>,
    Path(event_type): Path<String>,
    Caller(trace): Caller,
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
    let arrival = ingress::binary(attributes, content_type(&headers), body, app.ingress_rules());
    let arrival = arrival.map_err(|errors| Problem::invalid("The request is not an event", errors))?;
    accept(&app, Arrival { due_at_ms: due_at_ms.or(arrival.due_at_ms), ..arrival }, &trace).await
}

/// `CloudEvents`: structured, batch and binary mode.
pub(super) async fn ingest(
    State(app): State<Shared>,
    Caller(trace): Caller,
    Schedule(due_at_ms): Schedule,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Answer<Response> {
    let kind = content_type(&headers).unwrap_or_default();
    let is = |wanted: &str| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted);
    let rules = app.ingress_rules();
    if is(cloud_events::BATCH) {
        let arrivals =
            ingress::batch(document(&body)?, rules).map_err(|errors| Problem::invalid("The body is no batch of events", errors))?;
        let arrivals = arrivals.into_iter().map(|one| Arrival { due_at_ms: due_at_ms.or(one.due_at_ms), ..one }).collect();
        return accept_all(&app, arrivals, &trace).await;
    }
    let arrival = if is(cloud_events::STRUCTURED) {
        ingress::structured(document(&body)?, rules)
    } else if headers.keys().any(|name| name.as_str().starts_with("ce-")) {
        let attributes = attributes(&headers)?;
        let missing = ["specversion", "id", "source", "type"].into_iter().filter(|name| !attributes.contains_key(*name));
        let missing = missing
            .map(|name| crate::orders::Problem { pointer: format!("/{name}"), detail: format!("the header `ce-{name}` is missing") });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() { ingress::binary(attributes, content_type(&headers), body, rules) } else { Err(missing) }
    } else {
        return Err(Problem::not_cloud_events());
    };
    let arrival = arrival.map_err(|errors| Problem::invalid("The request is not an event", errors))?;
    accept(&app, Arrival { due_at_ms: due_at_ms.or(arrival.due_at_ms), ..arrival }, &trace).await
}

fn document(body: &Bytes) -> Answer<Value> {
    serde_json::from_slice(body).map_err(|error| Problem::malformed(error.to_string()))
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Attributes in headers, as the HTTP binding of `CloudEvents` writes them: percent-encoded.
fn attributes(headers: &HeaderMap) -> Answer<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        let value = value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        let value = value.ok_or_else(|| Problem::bad_header(format!("{header}: must be visible ASCII, percent-encoded UTF-8")))?;
        attributes.insert(name.to_owned(), value.into_owned());
    }
    Ok(attributes)
}

async fn accept(app: &Shared, arrival: Arrival, trace: &crate::trace::Trace) -> Answer<Response> {
    let (place, mut answer) = (place(&arrival.event), receipt(&arrival));
    let new = app.ingest(vec![arrival], trace).await?;
    answer["duplicate"] = json!(new == [false]);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response())
}

async fn accept_all(app: &Shared, arrivals: Vec<Arrival>, trace: &crate::trace::Trace) -> Answer<Response> {
    let mut items: Vec<Value> = arrivals.iter().map(receipt).collect();
    let new = app.ingest(arrivals, trace).await?;
    let accepted = new.iter().filter(|new| **new).count();
    for (item, new) in items.iter_mut().zip(&new) {
        item["duplicate"] = json!(!new);
    }
    let answer = json!({ "accepted": accepted, "duplicates": new.len() - accepted, "items": items });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Where an event is found.
fn place(event: &Event) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!("/events/{}?source={}", encode(&event.id), encode(&event.source))
}

fn receipt(arrival: &Arrival) -> Value {
    let event = &arrival.event;
    json!({ "id": event.id, "source": event.source, "type": event.event_type, "due_at_ms": arrival.due_at_ms })
}
