//! `POST /dead-letters/{id}/replay`: replays one dead letter, unchanged or edited.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{require_done, require_operator};
use crate::app::dead_letters::{Edit, Replayed};
use crate::domain::access::Requester;
use crate::domain::cloud_events::is_type;
use crate::domain::event::HOST_EVENT_PREFIX;
use crate::http::Shared;
use crate::http::deliveries::EventKeyView;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{DeadLetterId, Fields, Parsed, RequestBody};

/// A dead letter that was replayed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterReplayed {
    id: i64,
    /// `replayed`.
    status: &'static str,
    /// Whether an edited event replaces the dead-lettered one.
    edited: bool,
    /// The edited event.
    event: Option<EventKeyView>,
}

impl RequestBody for Edit {
    const NAME: &'static str = "replay request";
    const FIELDS: &'static [&'static str] = &["data", "edit", "type"];

    fn take(fields: &mut Fields) -> Self {
        // The new body itself may be `null`.
        let (data, edit) = (fields.take_nullable("data"), fields.take_nullable("edit"));
        if let Some(event_type) = fields.text("type") {
            if !is_type(&event_type) || event_type.starts_with(HOST_EVENT_PREFIX) {
                fields.problem("/type", "must be an event type of your own, such as `desk.note`");
            }
            if edit.is_some() {
                fields.problem("/edit", "must not be combined with `type`: give the new `data`");
            }
            return Self::Type { event_type, body: data };
        }
        match (data, edit) {
            (None, None) => Self::None,
            (Some(data), None) => Self::Body(data),
            (None, Some(patch)) => Self::Patch(patch),
            (Some(_), Some(_)) => {
                fields.problem("/edit", "must not be combined with `data`");
                Self::None
            }
        }
    }
}

/// Replays a dead letter, unchanged or with an edited body.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", tag = "dead letters",
    params(DeadLetterId),
    request_body = ref("#/components/schemas/Replay"),
    responses(
        (status = 200, body = DeadLetterReplayed),
        (status = 404, description = "No dead letter has this id", body = Problem),
        (status = 409, description = "It is already settled, or its body cannot be patched",
            body = Problem),
    ))]
pub(crate) async fn replay(
    State(app): State<Shared>,
    requester: Requester,
    Path(DeadLetterId(id)): Path<DeadLetterId>,
    Parsed(edit): Parsed<Edit>,
) -> Answer<Json<DeadLetterReplayed>> {
    require_operator(&app, &requester, id).await?;
    match app.dead_letters().replay(id, &edit).await? {
        Replayed::Settled { action, event } => {
            require_done(id, &action)?;
            let edited = event.is_some();
            let event = event.map(Into::into);
            Ok(Json(DeadLetterReplayed { id, status: "replayed", edited, event }))
        }
        Replayed::NotEditable(why) => Err(Problem::new(
            Kind::NOT_EDITABLE,
            format!("dead letter {id}: {why}; nothing was changed"),
        )),
    }
}
