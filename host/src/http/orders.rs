//! `/orders`: create, list, show with the whole timeline, events.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::caller::Caller;
use super::events::{instant, shown};
use super::headers::{IdempotencyKey, Schedule, last_event_id, wants_stream};
use super::json::JsonBody;
use super::problem::{Answer, Problem};
use super::streams;
use crate::app::Submission;
use crate::orders::parse_order;
use crate::store::{Accepted, DeliveryRecord, EventFilter, LogRange, Order, OrderFilter};

/// Largest page of a list.
const PAGE_MAX: u32 = 200;
const PAGE: u32 = 50;

pub(super) async fn create(
    State(app): State<Shared>,
    Caller(trace): Caller,
    IdempotencyKey(key): IdempotencyKey,
    Schedule(due_at_ms): Schedule,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let order = parse_order(body, key.as_deref()).map_err(|errors| Problem::invalid("The body is not an order", errors))?;
    let id = order.id.clone();
    let keyed = key.is_some();
    let (status, order) = match app.accept_as(order, Submission { trace, idempotency_key: key, due_at_ms }).await? {
        Accepted::New(order) => (StatusCode::ACCEPTED, order),
        // A request that is repeated under its key is answered as it was at first.
        Accepted::Same(order) if keyed => (StatusCode::ACCEPTED, Order { status: app.initial_status().to_owned(), ..order }),
        Accepted::Same(order) => (StatusCode::OK, order),
        Accepted::Different => {
            let detail = format!("order `{id}` exists with another body");
            return Err(Problem::conflict("/problems/order-exists", "Another order has this id", detail));
        }
        Accepted::KeyReused => return Err(Problem::key_reused()),
    };
    let body = json!({ "order_id": order.id, "status": order.status, "created_at_ms": order.created_at_ms });
    Ok((status, [(header::LOCATION, format!("/orders/{}", order.id))], Json(body)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    status: Option<String>,
    #[serde(alias = "user_id", alias = "customer_id")]
    customer: Option<String>,
    /// Orders that wait at this stage.
    stage: Option<String>,
    since: Option<String>,
    until: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// A place in the list; clients take it as it is.
fn cursor(position: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("orders:{position}"))
}

fn position(cursor: &str) -> Option<i64> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("orders:")?.parse().ok()
}

pub(super) async fn list(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let mut problems = Vec::new();
    let since_ms = instant("since", query.since.as_deref(), &mut problems);
    let until_ms = instant("until", query.until.as_deref(), &mut problems);
    let before = query.cursor.as_deref().and_then(position);
    if query.cursor.is_some() && before.is_none() {
        problems.push("cursor: is none of this list".to_owned());
    }
    let limit = page_size(query.limit).unwrap_or_else(|problem| {
        problems.push(problem.detail().to_owned());
        0
    });
    if !problems.is_empty() {
        return Err(Problem::bad_query(problems.join("; ")));
    }
    let ListQuery { status, customer, stage, .. } = query;
    let filter = OrderFilter { status, customer, stage, since_ms, until_ms, before, limit };
    let page = app.services().store.orders(filter).await?;
    let items: Vec<Value> = page.items.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": page.next.map(cursor) })))
}

/// A page size within the bounds.
pub(super) fn page_size(asked: Option<u32>) -> Answer<u32> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        other => Err(Problem::bad_query(format!("limit: {other} must be from 1 to {PAGE_MAX}"))),
    }
}

fn summary(order: &crate::store::Order) -> Value {
    json!({
        "order_id": order.id,
        "customer": order.customer,
        "status": order.status,
        "created_at_ms": order.created_at_ms,
        "updated_at_ms": order.updated_at_ms,
    })
}

pub(super) async fn show(State(app): State<Shared>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let story = app.story(&id).await?.ok_or_else(|| Problem::not_found(format!("no order `{id}`")))?;
    let mut body = summary(&story.order);
    body["order"] = story.order.body;
    body["timeline"] = story.deliveries.iter().map(delivery).collect();
    Ok(Json(body))
}

fn delivery(delivery: &DeliveryRecord) -> Value {
    json!({
        "stage": delivery.stage,
        "event": { "type": delivery.event_type, "id": delivery.event.id, "source": delivery.event.source },
        "status": delivery.status,
        "round": delivery.round,
        "attempt": delivery.attempt,
        "plugin": { "version": delivery.version, "digest": delivery.digest },
        "duration_ms": delivery.duration_us.map(|micros| micros as f64 / 1_000.0),
        "created_at_ms": delivery.created_at_ms,
        "settled_at_ms": delivery.settled_at_ms,
        "emitted": delivery.emitted,
        "failures": delivery.failures,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<i64>,
    limit: Option<u32>,
}

pub(super) async fn events(
    State(app): State<Shared>,
    Path(id): Path<String>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Query(query) = query?;
    let limit = page_size(query.limit)?;
    if app.status(&id).await?.is_none() {
        return Err(Problem::not_found(format!("no order `{id}`")));
    }
    let store = &app.services().store;
    let filter = EventFilter { order: Some(id.clone()), ..EventFilter::default() };
    let (last, streams) = (last_event_id(&headers)?, wants_stream(&headers));
    let after = last.filter(|_| streams).or(query.after).unwrap_or(0);
    if streams && last.is_none() {
        return streams::live(&app, filter, after);
    }
    // Asked before the events: what is settled then has them all in the log.
    let settled = streams && !store.settled_orders(&[id]).await?.is_empty();
    let page = store.events(filter.clone(), LogRange { after, up_to: store.log_end().await?, limit }).await?;
    match (streams, settled && page.items.is_empty()) {
        (true, true) => Ok(streams::nothing_more()),
        (true, false) => streams::live(&app, filter, after),
        (false, _) => {
            let items: Vec<Value> = page.items.iter().map(shown).collect();
            Ok(Json(json!({ "items": items, "next": page.next })).into_response())
        }
    }
}
