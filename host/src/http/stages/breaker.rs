//! `POST /stages/{stage}/breaker/close`.

use axum::Json;
use axum::extract::{Path, State};

use super::control::unknown_stage;
use super::list::StageStatusView;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Parsed, Reason, StageName};

/// Closes the circuit breaker of a stage on every live host: its messages run, until enough of them fail
/// again. A host that does not answer within five seconds is not waited for.
#[utoipa::path(post, path = "/stages/{stage}/breaker/close", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = StageStatusView),
        (status = 404, description = "No host knows such a stage", body = Problem),
    ))]
pub(crate) async fn close_breaker(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Json<StageStatusView>> {
    let closed = app.close_breaker_on_all_hosts(&stage, reason.as_deref()).await?;
    Ok(Json(closed.ok_or_else(|| unknown_stage(&stage))?.into()))
}
