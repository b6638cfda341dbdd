//! `/stages`: how each stands, and the operators' word: pause, drain, resume.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Shared;
use super::json::JsonBody;
use super::problem::{Answer, Problem};
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
