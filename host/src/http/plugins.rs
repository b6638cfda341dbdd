//! `/plugins` and `/topology`: what runs, and how it hangs together.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Shared;
use super::json::JsonBody;
use super::problem::{Answer, Problem};
use crate::app::RollBack;

/// Loads shown.
const HISTORY: u32 = 100;

pub(super) async fn list(State(app): State<Shared>) -> Json<Value> {
    Json(json!({ "items": app.plugins() }))
}

pub(super) async fn history(State(app): State<Shared>, Path(stage): Path<String>) -> Answer<Json<Value>> {
    let loads = app.plugin_history(&stage, HISTORY).await?;
    if loads.is_empty() {
        return Err(Problem::not_found(format!("no plugin was ever loaded for a stage `{stage}`")));
    }
    Ok(Json(json!({ "items": loads })))
}

/// Puts an earlier version back on this host.
pub(super) async fn roll_back(State(app): State<Shared>, Path(stage): Path<String>, JsonBody(body): JsonBody) -> Answer<Json<Value>> {
    let digest = body["digest"].as_str();
    match app.roll_back(&stage, digest).await? {
        RollBack::Done(digest) => Ok(Json(json!({ "stage": stage, "digest": digest }))),
        RollBack::NotFound => Err(Problem::not_found(format!("no plugin file runs a stage `{stage}` on this host"))),
        RollBack::NoSuchVersion => {
            let which = digest.map_or_else(|| "no earlier version".to_owned(), |digest| format!("not exactly one version `{digest}…`"));
            let detail = format!("{which} of `{stage}` is kept on this host; GET /plugins/{stage}/history shows what served");
            Err(Problem::conflict("/problems/no-such-version", "There is no such version", detail))
        }
        RollBack::Refused(why) => Err(Problem::conflict("/problems/roll-back", "The earlier version does not serve", why)),
    }
}

pub(super) async fn topology(State(app): State<Shared>) -> Json<Value> {
    Json(json!(app.services().pipeline.topology()))
}
