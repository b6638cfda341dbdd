//! `/orders`: create, list, show with the whole timeline, events.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::events::view::EventView;
use super::headers::{IdempotencyKey, Schedule, last_event_id, wants_stream};
use super::json::JsonBody;
use super::lists::{Listing, QueryValidator};
use super::openapi::{instant_schema, page_size_schema, position_schema};
use super::paths::OrderId;
use super::problem::{Answer, Kind, Problem};
use super::streams;
use crate::app::{Submission, SubmitError, Submitted};
use crate::domain::event::EventKey;
use crate::domain::trace_context::TraceContext;
use crate::store::{
    DeliveryRecord, DeliveryStatus, EventFilter, FailedAttempt, LogRange, Order, OrderFilter,
};

/// An order that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderReceipt {
    order_id: String,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
}

/// Sends an order.
///
/// Accepted means: durable, and on its way. The same `order_id` with the same body is answered with
/// the order as it stands.
#[utoipa::path(post, path = "/orders", tag = "orders", params(IdempotencyKey, Schedule),
    request_body = ref("#/components/schemas/NewOrder"),
    responses(
        (status = 202, description = "Accepted", body = OrderReceipt, headers(("Location" = String, description = "The order"))),
        (status = 200, description = "The same order is here already", body = OrderReceipt, headers(("Location" = String, description = "The order"))),
        (status = 409, description = "Another order has this id", body = Problem),
    ))]
pub(super) async fn create(
    State(app): State<Shared>,
    trace: TraceContext,
    IdempotencyKey(key): IdempotencyKey,
    Schedule(due_at_ms): Schedule,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let keyed = key.is_some();
    let submission = Submission { trace, idempotency_key: key, due_at_ms };
    let (status, order) = match app.submit_with(body, submission).await? {
        Submitted::New(order) => (StatusCode::ACCEPTED, order),
        // A request that is repeated under its key gets the answer that it got at first.
        Submitted::Duplicate(order) if keyed => {
            (StatusCode::ACCEPTED, Order { status: app.initial_status().to_owned(), ..order })
        }
        Submitted::Duplicate(order) => (StatusCode::OK, order),
    };
    let place = format!("/orders/{}", order.id);
    let receipt = OrderReceipt {
        order_id: order.id,
        status: order.status,
        created_at_ms: order.created_at_ms,
    };
    Ok((status, [(header::LOCATION, place)], Json(receipt)).into_response())
}

/// Which orders.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those in this status.
    status: Option<String>,
    /// Only this customer's.
    #[serde(alias = "user_id", alias = "customer_id")]
    customer: Option<String>,
    /// Only those that wait at this stage, or whose delivery there is a dead letter.
    stage: Option<String>,
    /// Only those created then or later.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Only those created before then.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the page before.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Orders, newest first.
#[utoipa::path(get, path = "/orders", tag = "orders", params(ListQuery), responses((status = 200, body = Listing<OrderSummary>)))]
pub(super) async fn list(
    State(app): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Listing<OrderSummary>>> {
    let Query(query) = query?;
    let mut checked = QueryValidator::default();
    let since_ms = checked.instant("since", query.since.as_deref());
    let until_ms = checked.instant("until", query.until.as_deref());
    let before = checked.position("cursor", query.cursor);
    let limit = checked.limit(query.limit);
    checked.finish()?;
    let ListQuery { status, customer, stage, .. } = query;
    let filter = OrderFilter { status, customer, stage, since_ms, until_ms, before, limit };
    let page = app.services().store.orders(filter).await?;
    let items = page.items.into_iter().map(OrderSummary::of).collect();
    Ok(Json(Listing { items, next: page.next }))
}

/// An order in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderSummary {
    order_id: String,
    customer: Option<String>,
    status: String,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    updated_at_ms: u64,
}

impl OrderSummary {
    fn of(order: Order) -> Self {
        let Order { id, customer, status, created_at_ms, updated_at_ms, .. } = order;
        Self { order_id: id, customer, status, created_at_ms, updated_at_ms }
    }
}

/// An order with all that happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderView {
    #[serde(flatten)]
    summary: OrderSummary,
    /// The body as stages see it.
    order: Value,
    /// Its deliveries, oldest first.
    timeline: Vec<DeliveryView>,
}

/// One event at one stage.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryView {
    stage: String,
    event: EventReference,
    status: DeliveryStatus,
    /// Replays so far, from 1.
    round: u32,
    /// Attempt under way or last made, from 1.
    attempt: u32,
    /// What settled it.
    plugin: PluginReference,
    /// Time in the stage on the settling try.
    duration_ms: Option<f64>,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    settled_at_ms: Option<u64>,
    /// Ids of the events that came of it.
    emitted: Vec<String>,
    /// Failed tries, oldest first.
    failures: Vec<FailedAttempt>,
}

/// An event, by its name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventReference {
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    source: String,
}

/// A version of a plugin.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PluginReference {
    version: Option<String>,
    /// SHA-256 of the file.
    digest: Option<String>,
}

impl DeliveryView {
    fn of(delivery: DeliveryRecord) -> Self {
        let EventKey { source, id } = delivery.event;
        Self {
            stage: delivery.stage,
            event: EventReference { event_type: delivery.event_type, id, source },
            status: delivery.status,
            round: delivery.round,
            attempt: delivery.attempt,
            plugin: PluginReference { version: delivery.version, digest: delivery.digest },
            duration_ms: delivery.duration_us.map(|micros| micros as f64 / 1_000.0),
            created_at_ms: delivery.created_at_ms,
            settled_at_ms: delivery.settled_at_ms,
            emitted: delivery.emitted,
            failures: delivery.failures,
        }
    }
}

/// One order, with its timeline.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", params(OrderId),
    responses((status = 200, body = OrderView), (status = 404, description = "No order has this id", body = Problem)))]
pub(super) async fn show(
    State(app): State<Shared>,
    Path(OrderId(id)): Path<OrderId>,
) -> Answer<Json<OrderView>> {
    let mut history =
        app.history(&id).await?.ok_or_else(|| Problem::not_found(format!("no order `{id}`")))?;
    let order = history.order.body.take();
    let timeline = history.deliveries.into_iter().map(DeliveryView::of).collect();
    Ok(Json(OrderView { summary: OrderSummary::of(history.order), order, timeline }))
}

/// Which events of an order.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// `next` of the page before: the position in the event log after which this one begins.
    #[param(schema_with = position_schema)]
    after: Option<i64>,
    /// Most items of the page.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// The events of an order, oldest first.
///
/// With `Accept: text/event-stream` they come as server-sent events and go on live, until one of
/// type `end` says that the order is settled; `Last-Event-ID` goes on where a stream broke off.
#[utoipa::path(get, path = "/orders/{id}/events", tag = "orders", params(OrderId, EventsQuery),
    responses(
        (status = 200, content((Listing<EventView> = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "To a stream that goes on: nothing more will be heard of this order"),
        (status = 404, description = "No order has this id", body = Problem),
    ))]
pub(super) async fn events(
    State(app): State<Shared>,
    Path(OrderId(id)): Path<OrderId>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Query(query) = query?;
    let mut checked = QueryValidator::default();
    let (after, limit) = (checked.position("after", query.after), checked.limit(query.limit));
    checked.finish()?;
    if app.status(&id).await?.is_none() {
        return Err(Problem::not_found(format!("no order `{id}`")));
    }
    let store = &app.services().store;
    let filter = EventFilter { order: Some(id.clone()), ..EventFilter::default() };
    let (last, streams) = (last_event_id(&headers)?, wants_stream(&headers));
    let after = last.filter(|_| streams).or(after).unwrap_or(0);
    if streams && last.is_none() {
        return streams::live(&app, filter, after);
    }
    // Asked before the events: what is settled then has them all in the log.
    let settled = streams && !store.settled_orders(&[id]).await?.is_empty();
    let page = store
        .events(filter.clone(), LogRange { after, up_to: store.log_end().await?, limit })
        .await?;
    match (streams, settled && page.items.is_empty()) {
        (true, true) => Ok(streams::nothing_more()),
        (true, false) => streams::live(&app, filter, after),
        (false, _) => {
            let items = page.items.into_iter().map(EventView::of).collect();
            Ok(Json(Listing { items, next: page.next }).into_response())
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(errors) => Self::invalid("an order", errors),
            SubmitError::Conflict { id } => {
                Self::new(Kind::OrderExists, format!("order `{id}` exists with a different body"))
            }
            SubmitError::KeyReused => Self::key_reused(),
            SubmitError::Store(error) => error.into(),
        }
    }
}
