//! `POST /stages/{stage}/breaker/close`.

use axum::Json;
use axum::extract::{Path, State};

use super::control::unknown_stage;
use super::list::StageStatusView;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::StageName;

/// Closes the circuit breaker of a stage on this host: its messages run, until enough of them fail
/// again.
#[utoipa::path(post, path = "/stages/{stage}/breaker/close", tag = "stages", params(StageName),
    responses(
        (status = 200, body = StageStatusView),
        (status = 404, description = "This host knows no such stage", body = Problem),
    ))]
pub(crate) async fn close_breaker(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<StageStatusView>> {
    let status = app.close_breaker(&stage).await.ok_or_else(|| unknown_stage(&stage))?;
    Ok(Json(status.into()))
}
