//! `/orders`: create, list, show with the whole timeline, events.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::caller::Caller;
use super::json::{JsonBody, payload};
use super::problem::{Answer, Problem};
use crate::orders::parse_order;
use crate::store::{Accepted, DeliveryRecord, LoggedEvent, OrderFilter};

/// Largest page of a list.
const PAGE_MAX: u32 = 200;
const PAGE: u32 = 50;

pub(super) async fn create(
    State(app): State<Shared>,
    Caller(trace): Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let order = parse_order(body, key).map_err(|errors| Problem::invalid("The body is not an order", errors))?;
    let id = order.id.clone();
    let (status, order) = match app.accept(order, trace).await? {
        Accepted::New(order) => (StatusCode::ACCEPTED, order),
        Accepted::Same(order) => (StatusCode::OK, order),
        Accepted::Different => {
            let detail = format!("order `{id}` exists with another body");
            return Err(Problem::conflict("/problems/order-exists", "Another order has this id", detail));
        }
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
    cursor: Option<i64>,
    limit: Option<u32>,
}

pub(super) async fn list(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let limit = page_size(query.limit)?;
    let filter = OrderFilter { status: query.status, customer: query.customer, before: query.cursor, limit };
    let page = app.services().store.orders(filter).await?;
    let items: Vec<Value> = page.items.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": page.next })))
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
) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let limit = page_size(query.limit)?;
    if app.status(&id).await?.is_none() {
        return Err(Problem::not_found(format!("no order `{id}`")));
    }
    let events = app.services().store.order_events(&id, query.after.unwrap_or(0), limit).await?;
    let next = (events.len() == limit as usize).then(|| events.last().map(|event| event.seq)).flatten();
    let items: Vec<Value> = events.iter().map(event).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

fn event(logged: &LoggedEvent) -> Value {
    let event = &logged.envelope.event;
    json!({
        "seq": logged.seq,
        "id": event.id,
        "type": event.event_type,
        "source": event.source,
        "subject": event.subject,
        "time_ms": event.time_ms,
        "data": payload(&event.data),
        "attributes": event.attributes.iter().cloned().collect::<BTreeMap<_, _>>(),
        "correlation_id": logged.envelope.correlation_id,
        "cause": logged.envelope.cause,
        "stage": logged.stage,
        "digest": logged.digest,
        "routed_to": logged.routed_to,
    })
}
