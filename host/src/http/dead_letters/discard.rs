//! `POST /dead-letters/{id}/discard`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{require_done, require_operator};
use crate::domain::access::Requester;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{DeadLetterId, Parsed, Reason};

/// A dead letter that was discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterDiscarded {
    id: i64,
    /// `discarded`.
    status: &'static str,
}

/// Discards a dead letter: it can never be replayed.
#[utoipa::path(post, path = "/dead-letters/{id}/discard", tag = "dead letters",
    params(DeadLetterId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = DeadLetterDiscarded),
        (status = 404, description = "No dead letter has this id", body = Problem),
        (status = 409, description = "It is already settled", body = Problem),
    ))]
pub(crate) async fn discard(
    State(app): State<Shared>,
    requester: Requester,
    Path(DeadLetterId(id)): Path<DeadLetterId>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Json<DeadLetterDiscarded>> {
    require_operator(&app, &requester, id).await?;
    let reason = reason.as_deref().unwrap_or("no reason given");
    require_done(id, &app.dead_letters().discard(id, reason).await?)?;
    Ok(Json(DeadLetterDiscarded { id, status: "discarded" }))
}
