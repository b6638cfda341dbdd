//! `/health`, `/health/db`, `/health/queue`, `/ready`: for probes and people.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;

/// The process answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

pub(super) async fn store(State(app): State<Shared>) -> (StatusCode, Json<Value>) {
    answer(app.services().store.ping().await.err().map(|error| error.to_string()))
}

pub(super) async fn broker(State(app): State<Shared>) -> (StatusCode, Json<Value>) {
    answer(app.services().broker.ping().await.err().map(|error| error.to_string()))
}

/// The host can do its work: store, broker, and something to run for every stage.
pub(super) async fn ready(State(app): State<Shared>) -> (StatusCode, Json<Value>) {
    let readiness = app.readiness().await;
    (status(readiness.ready), Json(json!(readiness)))
}

fn answer(error: Option<String>) -> (StatusCode, Json<Value>) {
    let healthy = error.is_none();
    (status(healthy), Json(json!({ "status": if healthy { "ok" } else { "failing" }, "error": error })))
}

fn status(healthy: bool) -> StatusCode {
    if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
