//! `/stages`: how each stands, and the operators' word: pause, drain, resume.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::fields::Fields;
use super::json::JsonBody;
use super::lists::Items;
use super::paths::StageName;
use super::problem::{Answer, Kind, Problem};
use crate::app::{StageDeletion, StageStatus};
use crate::store::{ControlState, StageControl};

/// Every stage that this host knows, and how it stands.
#[utoipa::path(get, path = "/stages", tag = "stages", responses((status = 200, body = Items<StageStatus>)))]
pub(super) async fn list(State(app): State<Shared>) -> Json<Items<StageStatus>> {
    Json(Items { items: app.stages().await })
}

/// Pauses a stage: it finishes what is under way and holds the rest, on every host.
#[utoipa::path(post, path = "/stages/{stage}/pause", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses((status = 200, body = StageControl), (status = 404, description = "This host knows no such stage", body = Problem)))]
pub(super) async fn pause(
    app: State<Shared>,
    stage: Path<StageName>,
    body: JsonBody,
) -> Answer<Json<StageControl>> {
    control(app, stage, body, ControlState::Paused).await
}

/// Drains a stage: it finishes what the hosts hold and takes nothing more.
#[utoipa::path(post, path = "/stages/{stage}/drain", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses((status = 200, body = StageControl), (status = 404, description = "This host knows no such stage", body = Problem)))]
pub(super) async fn drain(
    app: State<Shared>,
    stage: Path<StageName>,
    body: JsonBody,
) -> Answer<Json<StageControl>> {
    control(app, stage, body, ControlState::Draining).await
}

/// Resumes a stage.
#[utoipa::path(post, path = "/stages/{stage}/resume", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses((status = 200, body = StageControl), (status = 404, description = "This host knows no such stage", body = Problem)))]
pub(super) async fn resume(
    app: State<Shared>,
    stage: Path<StageName>,
    body: JsonBody,
) -> Answer<Json<StageControl>> {
    control(app, stage, body, ControlState::Running).await
}

/// A stage that is no longer part of the pipeline.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StageForgotten {
    stage: String,
    /// `forgotten`.
    state: &'static str,
}

/// Takes a stage out of the pipeline for good, when no host runs it.
#[utoipa::path(delete, path = "/stages/{stage}", tag = "stages", params(StageName),
    responses(
        (status = 200, body = StageForgotten),
        (status = 404, description = "Nothing is routed to such a stage", body = Problem),
        (status = 409, description = "A host runs it", body = Problem),
    ))]
pub(super) async fn forget(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<StageForgotten>> {
    match app.forget(&stage).await.map_err(|error| {
        Problem::unavailable(format!("the stage could not be forgotten: {error}"))
    })? {
        StageDeletion::Done => Ok(Json(StageForgotten { stage, state: "forgotten" })),
        StageDeletion::NotFound => {
            Err(Problem::not_found(format!("nothing is routed to a stage `{stage}`")))
        }
        StageDeletion::InUse => {
            let detail =
                format!("a host runs `{stage}`, or did half a minute ago: remove its plugin first");
            Err(Problem::new(Kind::StageInUse, detail))
        }
    }
}

async fn control(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    JsonBody(body): JsonBody,
    state: ControlState,
) -> Answer<Json<StageControl>> {
    let mut fields = Fields::optional(body, &["reason"]);
    let reason = fields.reason();
    fields.finish("a word about a stage")?;
    let control = app.control(&stage, state, reason).await?;
    let control =
        control.ok_or_else(|| Problem::not_found(format!("no stage `{stage}` on this host")))?;
    Ok(Json(control))
}
