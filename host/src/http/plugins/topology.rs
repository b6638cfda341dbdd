//! `GET /topology`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Shared;
use crate::pipeline::{Topology, TopologyStage};

/// The pipeline as stages, and the event types between them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Topology)]
pub(crate) struct TopologyView {
    /// Types of the first events of subjects, which begin a pipeline.
    first_events: Vec<String>,
    /// Stages by name.
    stages: Vec<TopologyStageView>,
    /// Event types that no stage emits, or that a stage consumes and does not handle.
    warnings: Vec<String>,
}

/// A stage of the pipeline.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TopologyStage)]
pub(crate) struct TopologyStageView {
    name: String,
    /// Version of its plugin.
    version: String,
    /// Topic patterns that it consumes.
    consumes: Vec<String>,
    /// Topic patterns that its code handles with the operator's settings.
    handles: Vec<String>,
    /// Event types that it emits.
    emits: Vec<String>,
}

impl From<Topology> for TopologyView {
    fn from(Topology { first_events, stages, warnings }: Topology) -> Self {
        Self { first_events, stages: stages.into_iter().map(Into::into).collect(), warnings }
    }
}

impl From<TopologyStage> for TopologyStageView {
    fn from(stage: TopologyStage) -> Self {
        let TopologyStage { name, version, consumes, handles, emits } = stage;
        Self { name, version, consumes, handles, emits }
    }
}

/// Shows how stages are connected.
#[utoipa::path(get, path = "/topology", tag = "plugins",
    responses((status = 200, body = TopologyView)))]
pub(crate) async fn topology(State(app): State<Shared>) -> Json<TopologyView> {
    Json(app.services().pipeline.topology().into())
}
