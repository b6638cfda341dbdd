//! `POST /stages/{stage}/pause`, `drain` and `resume`, on every host.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Parsed, Reason, StageName};
use crate::store::{ControlState, StageControl};

/// Whether a stage works.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ControlState)]
pub(crate) enum ControlStateView {
    /// It works.
    Running,
    /// It finishes messages in progress and holds the rest.
    Paused,
    /// It finishes the messages that its hosts hold, and accepts no more.
    Draining,
}

impl From<ControlState> for ControlStateView {
    fn from(state: ControlState) -> Self {
        match state {
            ControlState::Running => Self::Running,
            ControlState::Paused => Self::Paused,
            ControlState::Draining => Self::Draining,
        }
    }
}

/// The control that an operator set for a stage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageControl)]
pub(crate) struct StageControlView {
    stage: String,
    state: ControlStateView,
    /// Why, as the operator gave it.
    reason: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    since_ms: u64,
    /// When it was last paused or drained, milliseconds since 1970-01-01 UTC: events that expired
    /// since then get a whole expiry from the time when it was resumed.
    held_from_ms: Option<u64>,
}

impl From<StageControl> for StageControlView {
    fn from(control: StageControl) -> Self {
        let StageControl { stage, state, reason, since_ms, held_from_ms } = control;
        Self { stage, state: state.into(), reason, since_ms, held_from_ms }
    }
}

/// Pauses a stage on every host: it finishes messages in progress and holds the rest.
#[utoipa::path(post, path = "/stages/{stage}/pause", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = StageControlView),
        (status = 404, description = "No host knows such a stage", body = Problem),
    ))]
pub(crate) async fn pause(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(reason): Parsed<Reason>,
) -> Answer<Json<StageControlView>> {
    set_control(&app, &stage, ControlState::Paused, reason).await
}

/// Drains a stage on every host: it finishes the messages that the hosts hold, and accepts no
/// more.
#[utoipa::path(post, path = "/stages/{stage}/drain", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = StageControlView),
        (status = 404, description = "No host knows such a stage", body = Problem),
    ))]
pub(crate) async fn drain(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(reason): Parsed<Reason>,
) -> Answer<Json<StageControlView>> {
    set_control(&app, &stage, ControlState::Draining, reason).await
}

/// Resumes a stage on every host.
#[utoipa::path(post, path = "/stages/{stage}/resume", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = StageControlView),
        (status = 404, description = "No host knows such a stage", body = Problem),
    ))]
pub(crate) async fn resume(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(reason): Parsed<Reason>,
) -> Answer<Json<StageControlView>> {
    set_control(&app, &stage, ControlState::Running, reason).await
}

async fn set_control(
    app: &Shared,
    stage: &str,
    state: ControlState,
    Reason(reason): Reason,
) -> Answer<Json<StageControlView>> {
    let control = app.set_control(stage, state, reason).await?;
    Ok(Json(control.ok_or_else(|| unknown_stage(stage))?.into()))
}

pub(super) fn unknown_stage(stage: &str) -> Problem {
    Problem::not_found(format!("no live host knows a stage `{stage}`"))
}
