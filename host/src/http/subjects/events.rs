//! `GET /<path of the kind>/{id}/events`: the events of one subject, as a page or as a live stream.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::OfKind;
use crate::domain::access::Requester;
use crate::domain::subject::SubjectKey;
use crate::http::Shared;
use crate::http::auth::streams::StreamCredential;
use crate::http::events::{EventView, live};
use crate::http::openapi::{page_size_schema, position_schema};
use crate::http::pages::Listing;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{QueryValidator, SubjectId, ValidQuery, last_event_id, wants_stream};
use crate::store::{Direction, EventFilter, LogRange};

/// Which events of a subject.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListSubjectEvents {
    /// `next` of the previous page: the position in the event log after which the page starts.
    #[param(schema_with = position_schema)]
    after: Option<i64>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// Lists the events of a subject, oldest first.
///
/// With `Accept: text/event-stream` they arrive as server-sent events, live, until an event of
/// type `end` reports that the subject is settled; `Last-Event-ID` resumes an interrupted stream.
#[utoipa::path(get, path = "/kind/{id}/events", tag = "subjects",
    params(SubjectId, ListSubjectEvents),
    responses(
        (status = 200, content(
            (Listing<EventView> = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 204, description = "To a resumed stream: the subject is settled, and every event \
            was sent"),
        (status = 404, description = "No subject has this id", body = Problem),
    ))]
#[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
pub(crate) async fn events(
    State(app): State<Shared>,
    requester: Requester,
    credential: StreamCredential,
    kind: OfKind,
    Path(SubjectId(id)): Path<SubjectId>,
    ValidQuery(query): ValidQuery<ListSubjectEvents>,
    headers: HeaderMap,
) -> Answer<Response> {
    let mut validator = QueryValidator::default();
    let after = validator.position("after", query.after).unwrap_or(0);
    let limit = validator.limit(query.limit);
    validator.finish()?;
    let key = kind.key(&id)?;
    if app.status(&key).await?.is_none() {
        return Err(kind.missing(&id));
    }
    kind.check_owner(&app, &requester, &key).await?;
    let payloads = requester.sees_payloads();
    let last = last_event_id(&headers)?;
    let filter = EventFilter { subject: Some(key), ..EventFilter::default() };
    if wants_stream(&headers) {
        return match last {
            Some(last) if is_complete(&app, &filter, last).await? => {
                // No content tells a browser's `EventSource` not to reconnect.
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            last => live(&app, credential, filter, last.unwrap_or(after), payloads),
        };
    }
    let store = &app.services().store;
    let range =
        LogRange { after, up_to: store.log_end().await?, limit, direction: Direction::Oldest };
    Ok(Json(EventView::page(store.events(filter, range).await?, payloads)).into_response())
}

/// Whether the subject of the filter is settled and the log holds nothing of it after `last`.
async fn is_complete(app: &Shared, filter: &EventFilter, last: i64) -> Answer<bool> {
    let store = &app.services().store;
    let subject: Vec<SubjectKey> = filter.subject.iter().cloned().collect();
    // Asked before the log's end is: all events of a settled subject are in the log.
    if store.settled_subjects(&subject).await?.is_empty() {
        return Ok(false);
    }
    let range = LogRange {
        after: last,
        up_to: store.log_end().await?,
        limit: 1,
        direction: Direction::Oldest,
    };
    Ok(store.events(filter.clone(), range).await?.items.is_empty())
}
