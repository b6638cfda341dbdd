//! `/chains`: the largest chains of events; stop and resume.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::pages::Items;
use super::problem::{Answer, Problem};
use super::request::{CorrelationId, Parsed, Reason};
use crate::app::ChainControl;
use crate::pipeline::chains::ChainReport;

/// A chain of events as this host knows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Chain)]
pub(crate) struct ChainView {
    /// Id of its first event.
    correlation_id: String,
    /// Events that stages emitted in it, since it began or was last resumed.
    events: u64,
    state: ChainState,
    /// Why it is stopped, as the operator gave it.
    reason: Option<String>,
    /// When it was stopped, milliseconds since 1970-01-01 UTC.
    stopped_at_ms: Option<u64>,
    /// When its first event was emitted, milliseconds since 1970-01-01 UTC.
    first_at_ms: u64,
    /// When its last event was emitted, milliseconds since 1970-01-01 UTC.
    last_at_ms: u64,
}

/// Whether the deliveries of a chain run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChainState {
    /// They run.
    Running,
    /// They are skipped.
    Stopped,
}

impl From<ChainReport> for ChainView {
    fn from(chain: ChainReport) -> Self {
        let ChainReport { correlation_id, events, reason, stopped_at_ms, .. } = chain;
        let state = if stopped_at_ms.is_some() { ChainState::Stopped } else { ChainState::Running };
        let (first_at_ms, last_at_ms) = (chain.first_at_ms, chain.last_at_ms);
        Self { correlation_id, events, state, reason, stopped_at_ms, first_at_ms, last_at_ms }
    }
}

/// Lists the stopped chains of events, then the largest ones that this host knows.
#[utoipa::path(get, path = "/chains", tag = "chains",
    responses((status = 200, body = Items<ChainView>)))]
pub(crate) async fn list(State(app): State<Shared>) -> Json<Items<ChainView>> {
    Json(Items::of(app.chains()))
}

/// Stops a chain of events on every host: its deliveries are skipped.
#[utoipa::path(post, path = "/chains/{correlation}/stop", tag = "chains", params(CorrelationId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = ChainView),
        (status = 404, description = "No chain begins with such an event", body = Problem),
    ))]
pub(crate) async fn stop(
    State(app): State<Shared>,
    Path(CorrelationId(id)): Path<CorrelationId>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Json<ChainView>> {
    view(&id, app.stop_chain(&id, reason).await?)
}

/// Lets a chain of events run again on every host, and counts its events from zero. Deliveries that
/// were skipped are not repeated.
#[utoipa::path(post, path = "/chains/{correlation}/resume", tag = "chains", params(CorrelationId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 200, body = ChainView),
        (status = 404, description = "No chain begins with such an event", body = Problem),
    ))]
pub(crate) async fn resume(
    State(app): State<Shared>,
    Path(CorrelationId(id)): Path<CorrelationId>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Json<ChainView>> {
    view(&id, app.resume_chain(&id, reason).await?)
}

fn view(id: &str, control: ChainControl) -> Answer<Json<ChainView>> {
    match control {
        ChainControl::Set(chain) => Ok(Json(chain.into())),
        ChainControl::NotFound { part_of: None } => {
            Err(Problem::not_found(format!("no chain of events begins with an event `{id}`")))
        }
        ChainControl::NotFound { part_of: Some(first) } => Err(Problem::not_found(format!(
            "the event `{id}` begins no chain: it is part of the chain `{first}`"
        ))),
        ChainControl::TooMany => Err(Problem::unavailable(
            "too many chains are stopped: resume those that have ended, see GET /chains",
        )),
    }
}
