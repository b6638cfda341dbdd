//! `/stages`: how each stands, and the operators' word: pause, drain, resume.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Shared;
use super::json::JsonBody;
use super::problem::{Answer, Problem};
use crate::app::Forgotten;
use crate::store::ControlState;

pub(super) async fn list(State(app): State<Shared>) -> Json<Value> {
    Json(json!({ "items": app.stages().await }))
}

/// Finishes what is under way and holds the rest, on every host.
pub(super) async fn pause(app: State<Shared>, stage: Path<String>, body: JsonBody) -> Answer<Json<Value>> {
    control(app, stage, body, ControlState::Paused).await
}

/// Finishes what the hosts hold and takes nothing more.
pub(super) async fn drain(app: State<Shared>, stage: Path<String>, body: JsonBody) -> Answer<Json<Value>> {
    control(app, stage, body, ControlState::Draining).await
}

/// Goes on.
pub(super) async fn resume(app: State<Shared>, stage: Path<String>, body: JsonBody) -> Answer<Json<Value>> {
    control(app, stage, body, ControlState::Running).await
}

/// Takes it out of the pipeline for good, when no host runs it.
pub(super) async fn forget(State(app): State<Shared>, Path(stage): Path<String>) -> Answer<Json<Value>> {
    match app.forget(&stage).await.map_err(|error| Problem::unavailable(format!("the stage could not be forgotten: {error}")))? {
        Forgotten::Done => Ok(Json(json!({ "stage": stage, "state": "forgotten" }))),
        Forgotten::NotFound => Err(Problem::not_found(format!("nothing is routed to a stage `{stage}`"))),
        Forgotten::InUse => {
            let detail = format!("a host runs `{stage}`, or did half a minute ago: remove its plugin first");
            Err(Problem::conflict("/problems/stage-in-use", "The stage is in use", detail))
        }
    }
}

async fn control(
    State(app): State<Shared>,
    Path(stage): Path<String>,
    JsonBody(body): JsonBody,
    state: ControlState,
) -> Answer<Json<Value>> {
    let reason = body["reason"].as_str().map(str::to_owned);
    let control = app.control(&stage, state, reason).await?;
    let control = control.ok_or_else(|| Problem::not_found(format!("no stage `{stage}` on this host")))?;
    Ok(Json(json!(control)))
}
