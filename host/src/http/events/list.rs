//! `GET /events`: the event log, as a page or as a live stream.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::stream::live;
use super::view::EventView;
use crate::domain::access::Requester;
use crate::http::Shared;
use crate::http::auth::streams::StreamCredential;
use crate::http::openapi::{
    instant_schema, order_schema, page_size_schema, position_schema, subject_schema,
};
use crate::http::pages::Listing;
use crate::http::problem::Answer;
use crate::http::request::{QueryValidator, ValidQuery, last_event_id, wants_stream};
use crate::store::{Direction, EventFilter, LogRange};

/// Which events of the log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListEvents {
    /// Filter by subject.
    #[param(schema_with = subject_schema)]
    subject: Option<String>,
    /// Filter by event type.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Filter by source.
    source: Option<String>,
    /// Filter by the stage that emitted the event.
    stage: Option<String>,
    /// Filter by chain: the id of its first event.
    correlation: Option<String>,
    /// Filter by the time of logging: at or after.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Filter by the time of logging: before.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the previous page: the position in the log after which the page starts.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Order of the events of a page; live streams and exports are always oldest first. A cursor
    /// is a position in the log, and valid in both orders.
    #[param(schema_with = order_schema)]
    order: Option<String>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// A valid [`ListEvents`].
pub(super) struct EventQuery {
    pub(super) filter: EventFilter,
    /// The position after which to start.
    pub(super) cursor: Option<i64>,
    pub(super) direction: Direction,
    pub(super) limit: u32,
}

impl ListEvents {
    /// Checks the parameters, all of them.
    pub(super) fn validate(self) -> Answer<EventQuery> {
        let mut validator = QueryValidator::default();
        let query = EventQuery {
            cursor: validator.position("cursor", self.cursor),
            direction: validator.parsed("order", self.order.as_deref()).unwrap_or_default(),
            limit: validator.limit(self.limit),
            filter: EventFilter {
                since_ms: validator.instant("since", self.since.as_deref()),
                until_ms: validator.instant("until", self.until.as_deref()),
                subject: validator.parsed("subject", self.subject.as_deref()),
                event_type: self.event_type,
                source: self.source,
                stage: self.stage,
                correlation: self.correlation,
            },
        };
        validator.finish().map(|()| query)
    }
}

impl EventQuery {
    /// The part of a log with this end that the page is read from.
    fn range(&self, end: i64) -> LogRange {
        let (after, up_to) = match (self.direction, self.cursor) {
            (Direction::Oldest, cursor) => (cursor.unwrap_or(0), end),
            (Direction::Newest, cursor) => (0, cursor.map_or(end, |cursor| end.min(cursor - 1))),
        };
        LogRange { after, up_to, limit: self.limit, direction: self.direction }
    }
}

/// Lists the event log, oldest first unless `order` is `newest`.
///
/// With `Accept: text/event-stream` the events arrive as server-sent events, live;
/// `Last-Event-ID` resumes an interrupted stream.
#[utoipa::path(get, path = "/events", tag = "events", params(ListEvents),
    responses((status = 200, content(
        (Listing<EventView> = "application/json"),
        (String = "text/event-stream"),
    ))))]
pub(crate) async fn list(
    State(app): State<Shared>,
    requester: Requester,
    credential: StreamCredential,
    ValidQuery(query): ValidQuery<ListEvents>,
    headers: HeaderMap,
) -> Answer<Response> {
    let query = query.validate()?;
    let store = &app.services().store;
    if wants_stream(&headers) {
        let EventQuery { filter, cursor, .. } = query;
        let after = match last_event_id(&headers)?.or(cursor) {
            Some(after) => after,
            None if filter.since_ms.is_some() => 0,
            // Without a start, a live stream begins with what comes next.
            None => store.log_end().await?,
        };
        return live(&app, credential, filter, after, requester.sees_payloads());
    }
    let range = query.range(store.log_end().await?);
    let found = store.events(query.filter, range).await?;
    let page = EventView::page(found, requester.sees_payloads());
    Ok(Json(page).into_response())
}
