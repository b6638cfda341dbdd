//! How the API shows an event.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::encryption::unreadable;
use crate::domain::event::{Envelope, LoggedEvent};
use crate::http::deliveries::EventKeyView;
use crate::http::pages::Listing;
use crate::http::request::json_or_text;
use crate::store::Page;

/// An event of the log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView {
    /// Position in the log; it increases.
    seq: i64,
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    source: String,
    subject: String,
    /// The subject that it belongs to: `<kind>/<id>`.
    subject_key: Option<String>,
    /// When it happened, milliseconds since 1970-01-01 UTC.
    time_ms: u64,
    /// When it was logged, milliseconds since 1970-01-01 UTC.
    logged_at_ms: u64,
    /// When a scheduled event is delivered, milliseconds since 1970-01-01 UTC.
    due_at_ms: Option<u64>,
    content_type: String,
    /// JSON as it is, anything else as text; null for a principal that may not see payloads.
    data: Value,
    /// Why the body cannot be read: it was erased, or its key is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    /// CloudEvents extension attributes.
    attributes: BTreeMap<String, String>,
    /// The first event of the chain.
    correlation_id: String,
    /// The event that caused this one.
    cause: Option<EventKeyView>,
    /// The stage that produced it.
    stage: Option<String>,
    /// SHA-256 of the plugin's file that produced it.
    digest: Option<String>,
    /// Stages it was routed to.
    routed_to: Vec<String>,
}

impl EventView {
    /// A page of the log. `payloads`: with the data of events.
    pub(crate) fn page(page: Page<LoggedEvent>, payloads: bool) -> Listing<Self> {
        let items = page.items.into_iter().map(|event| Self::of(event, payloads));
        Listing { items: items.collect(), next: page.next }
    }

    /// `payloads`: with its data.
    pub(crate) fn of(logged: LoggedEvent, payloads: bool) -> Self {
        let LoggedEvent { seq, envelope, stage, digest, routed_to, logged_at_ms, due_at_ms } =
            logged;
        let Envelope { event, subject_key, correlation_id, cause, .. } = envelope;
        let unreadable = unreadable(&event.data).map(Cow::into_owned);
        let is_shown = payloads && unreadable.is_none();
        Self {
            seq,
            id: event.id,
            event_type: event.event_type,
            source: event.source,
            subject: event.subject,
            subject_key: subject_key.map(Into::into),
            time_ms: event.time_ms,
            logged_at_ms,
            due_at_ms,
            content_type: event.content_type,
            data: if is_shown { json_or_text(&event.data) } else { Value::Null },
            unreadable,
            attributes: event.attributes.into_iter().collect(),
            correlation_id,
            cause: cause.map(Into::into),
            stage,
            digest,
            routed_to,
        }
    }
}
