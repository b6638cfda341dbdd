//! `GET /dead-letters/{id}`.

use axum::Json;
use axum::extract::{Path, State};

use super::missing;
use super::view::DeadLetterView;
use crate::domain::access::{Permission, Requester, Target};
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::DeadLetterId;

/// Shows a dead letter: its event, its failed attempts, and its successor if it was replayed.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", params(DeadLetterId),
    responses(
        (status = 200, body = DeadLetterView),
        (status = 404, description = "No dead letter has this id", body = Problem),
    ))]
pub(crate) async fn show(
    State(app): State<Shared>,
    requester: Requester,
    Path(DeadLetterId(id)): Path<DeadLetterId>,
) -> Answer<Json<DeadLetterView>> {
    let history = app.dead_letters().dead_letter(id).await?;
    let history = history.ok_or_else(|| missing(id))?;
    requester.require(Permission::Read, Target::Stage(&history.dead_letter.stage))?;
    Ok(Json(DeadLetterView::of(history, requester.sees_payloads())))
}
