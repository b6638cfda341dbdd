//! Accepts events of other programs, and answers with receipts.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::cloud_events::ingress::IngestedEvent;
use crate::domain::event::Event;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::store::AcceptedEvent;

/// An event that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventReceipt {
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    /// When a scheduled event is delivered, milliseconds since 1970-01-01 UTC.
    due_at_ms: Option<u64>,
    /// Whether the log had the same event already; nothing was changed then.
    duplicate: bool,
    /// Whether the log has another event with this source and id; this one was not accepted then.
    conflict: bool,
}

/// Events that were accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchReceipt {
    /// How many are new.
    accepted: usize,
    /// How many the log had already.
    duplicates: usize,
    /// How many were not accepted, because the log has another event with their source and id.
    conflicts: usize,
    items: Vec<EventReceipt>,
}

/// One receipt, or those of a batch.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "documents the two forms of the answer")]
pub(super) enum EventsAccepted {
    One(EventReceipt),
    Batch(BatchReceipt),
}

impl EventReceipt {
    fn new(ingested: &IngestedEvent) -> Self {
        let Event { id, source, event_type, .. } = ingested.event.clone();
        let due_at_ms = ingested.due_at_ms;
        Self { id, source, event_type, due_at_ms, duplicate: false, conflict: false }
    }

    fn of(self, accepted: AcceptedEvent) -> Self {
        Self {
            duplicate: accepted == AcceptedEvent::Duplicate,
            conflict: accepted == AcceptedEvent::Conflict,
            ..self
        }
    }
}

/// Accepts one event. None: the log has another event with its source and id.
pub(super) async fn accept(
    app: &Shared,
    ingested: IngestedEvent,
    trace: &TraceContext,
) -> Answer<Option<Response>> {
    refuse_large(app, std::slice::from_ref(&ingested))?;
    let (location, receipt) = (location(&ingested.event), EventReceipt::new(&ingested));
    let accepted = app.ingest(vec![ingested], trace).await?;
    let accepted = accepted.first().copied().unwrap_or(AcceptedEvent::Conflict);
    if accepted == AcceptedEvent::Conflict {
        return Ok(None);
    }
    let receipt = receipt.of(accepted);
    Ok(Some((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(receipt)).into_response()))
}

/// Accepts a batch.
pub(super) async fn accept_all(
    app: &Shared,
    ingested: Vec<IngestedEvent>,
    trace: &TraceContext,
) -> Answer<Response> {
    refuse_large(app, &ingested)?;
    let receipts: Vec<EventReceipt> = ingested.iter().map(EventReceipt::new).collect();
    let all = app.ingest(ingested, trace).await?;
    let count = |wanted| all.iter().filter(|accepted| **accepted == wanted).count();
    let batch = BatchReceipt {
        accepted: count(AcceptedEvent::New),
        duplicates: count(AcceptedEvent::Duplicate),
        conflicts: count(AcceptedEvent::Conflict),
        items: receipts.into_iter().zip(&all).map(|(receipt, one)| receipt.of(*one)).collect(),
    };
    Ok((StatusCode::ACCEPTED, Json(batch)).into_response())
}

/// Refuses events that the broker is known not to accept.
fn refuse_large(app: &Shared, ingested: &[IngestedEvent]) -> Answer<()> {
    let largest = ingested.iter().map(|one| one.event.data.len()).max().unwrap_or_default();
    match app.exceeded_limit(largest) {
        Some(limit) => Err(Problem::too_large_for_broker(largest, limit)),
        None => Ok(()),
    }
}

/// Names below `/events` that are routes of their own.
const ROUTES: [&str; 2] = ["export", "import"];

/// The path of an event. An id that is the name of a route is escaped, so that it is not that route.
fn location(event: &Event) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let id = match event.id.split_at_checked(1) {
        Some((first, rest)) if ROUTES.contains(&&*event.id) => {
            format!("%{:02X}{rest}", first.as_bytes()[0])
        }
        _ => encode(&event.id),
    };
    format!("/events/{id}?source={}", encode(&event.source))
}
