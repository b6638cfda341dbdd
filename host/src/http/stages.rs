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
use crate::pipeline::Consumption;
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{ControlState, StageControl};

/// The state of a stage on this host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageStatus)]
pub(super) struct StageStatusView {
    /// Its name.
    stage: String,
    /// Version that runs here; none when no plugin serves the stage.
    version: Option<String>,
    /// Whether operators paused or drain it.
    control: ControlState,
    /// Why, as they gave it.
    reason: Option<String>,
    /// When the control was last set, milliseconds since 1970-01-01 UTC.
    since_ms: Option<u64>,
    /// Its circuit breaker on this host.
    breaker: BreakerState,
    /// Whether this host consumes its queue.
    consumption: Consumption,
    /// Messages in its queue; none when the broker does not say.
    waiting: Option<u64>,
}

impl From<StageStatus> for StageStatusView {
    fn from(status: StageStatus) -> Self {
        Self {
            stage: status.stage,
            version: status.version,
            control: status.control,
            reason: status.reason,
            since_ms: status.since_ms,
            breaker: status.breaker,
            consumption: status.consumption,
            waiting: status.waiting,
        }
    }
}

/// Every stage that this host knows, with its state.
#[utoipa::path(get, path = "/stages", tag = "stages", responses((status = 200, body = Items<StageStatusView>)))]
pub(super) async fn list(State(app): State<Shared>) -> Json<Items<StageStatusView>> {
    Json(Items { items: app.stages().await.into_iter().map(Into::into).collect() })
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
pub(super) struct StageDeleted {
    stage: String,
    /// `deleted`.
    state: &'static str,
}

/// Takes a stage out of the pipeline for good, when no host runs it.
#[utoipa::path(delete, path = "/stages/{stage}", tag = "stages", params(StageName),
    responses(
        (status = 200, body = StageDeleted),
        (status = 404, description = "Nothing is routed to such a stage", body = Problem),
        (status = 409, description = "A host runs it", body = Problem),
    ))]
pub(super) async fn delete(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<StageDeleted>> {
    match app
        .delete_stage(&stage)
        .await
        .map_err(|error| Problem::unavailable(format!("the stage could not be deleted: {error}")))?
    {
        StageDeletion::Deleted => Ok(Json(StageDeleted { stage, state: "deleted" })),
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
    let control = app.set_control(&stage, state, reason).await?;
    let control =
        control.ok_or_else(|| Problem::not_found(format!("no stage `{stage}` on this host")))?;
    Ok(Json(control))
}
