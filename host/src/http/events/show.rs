//! `GET /events/{id}`: shows one event.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::view::EventView;
use crate::domain::access::Requester;
use crate::domain::event::EventKey;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{EventId, ValidQuery};

/// Which of several events with the same id.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowEvent {
    /// The event's source; required when several sources have an event with this id.
    source: Option<String>,
}

/// Shows an event. Ids are unique per source only.
#[utoipa::path(get, path = "/events/{name}", tag = "events", params(EventId, ShowEvent),
    responses(
        (status = 200, body = EventView),
        (status = 404, description = "No event has this id", body = Problem),
        (status = 409, description = "Several sources have an event with this id", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    requester: Requester,
    Path(EventId(id)): Path<EventId>,
    ValidQuery(ShowEvent { source }): ValidQuery<ShowEvent>,
) -> Answer<Json<EventView>> {
    let show = |event| Json(EventView::of(event, requester.sees_payloads()));
    let missing = || Problem::not_found(format!("no event `{id}`"));
    let Some(source) = source else {
        let mut found = app.services().store.events_by_id(&id).await?;
        if found.len() > 1 {
            let sources = found.len();
            return Err(Problem::ambiguous_event(format!(
                "{sources} sources have an event `{id}`: name one in `source`"
            )));
        }
        return found.pop().map(show).ok_or_else(missing);
    };
    let found = app.event(&EventKey { source, id: id.clone() }).await?;
    found.map(show).ok_or_else(missing)
}
