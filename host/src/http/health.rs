//! `/health`, `/health/db`, `/health/queue`, `/ready`: for probes and people.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use crate::app::Readiness;

/// The process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Liveness {
    /// `ok`.
    status: &'static str,
    /// Of the host.
    version: &'static str,
}

/// How a service of the host is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServiceHealth {
    /// `ok` or `failing`.
    status: &'static str,
    /// What is wrong.
    error: Option<String>,
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Liveness)))]
pub(super) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the store answers.
#[utoipa::path(get, path = "/health/db", tag = "health",
    responses((status = 200, body = ServiceHealth), (status = 503, description = "It does not", body = ServiceHealth)))]
pub(super) async fn store(State(app): State<Shared>) -> (StatusCode, Json<ServiceHealth>) {
    answer(app.services().store.ping().await.err().map(|error| error.to_string()))
}

/// Whether the broker answers.
#[utoipa::path(get, path = "/health/queue", tag = "health",
    responses((status = 200, body = ServiceHealth), (status = 503, description = "It does not", body = ServiceHealth)))]
pub(super) async fn broker(State(app): State<Shared>) -> (StatusCode, Json<ServiceHealth>) {
    answer(app.services().broker.ping().await.err().map(|error| error.to_string()))
}

/// Whether the host can do its work: store, broker, and something to run for every stage.
#[utoipa::path(get, path = "/ready", tag = "health",
    responses((status = 200, body = Readiness), (status = 503, description = "It cannot", body = Readiness)))]
pub(super) async fn ready(State(app): State<Shared>) -> (StatusCode, Json<Readiness>) {
    let readiness = app.readiness().await;
    (status(readiness.ready), Json(readiness))
}

fn answer(error: Option<String>) -> (StatusCode, Json<ServiceHealth>) {
    let healthy = error.is_none();
    (status(healthy), Json(ServiceHealth { status: if healthy { "ok" } else { "failing" }, error }))
}

fn status(healthy: bool) -> StatusCode {
    if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
