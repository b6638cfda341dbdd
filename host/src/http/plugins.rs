//! `/plugins` and `/topology`: what runs, and how it hangs together.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;

pub(super) async fn list(State(app): State<Shared>) -> Json<Value> {
    Json(json!({ "items": app.plugins() }))
}

pub(super) async fn topology(State(app): State<Shared>) -> Json<Value> {
    Json(json!(app.services().pipeline.topology()))
}
