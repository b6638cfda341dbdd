//! `GET /topology`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::ClusterTopology;
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
    /// Version of its plugin; of several, the one that was loaded last.
    version: String,
    /// Topic patterns that it consumes.
    consumes: Vec<String>,
    /// Topic patterns that its code handles with the operator's settings.
    handles: Vec<String>,
    /// Event types that it emits.
    emits: Vec<String>,
    /// Names of the live hosts that run it.
    hosts: Vec<String>,
}

impl From<ClusterTopology> for TopologyView {
    fn from(ClusterTopology { topology, mut hosts }: ClusterTopology) -> Self {
        let Topology { first_events, stages, warnings } = topology;
        let stages = stages.into_iter().map(|stage| {
            let TopologyStage { name, version, consumes, handles, emits } = stage;
            let hosts = hosts.remove(&name).unwrap_or_default();
            TopologyStageView { name, version, consumes, handles, emits, hosts }
        });
        Self { first_events, stages: stages.collect(), warnings }
    }
}

/// Shows how the stages that live hosts run are connected. A stage that runs in several versions consumes and
/// emits what any of them does.
#[utoipa::path(get, path = "/topology", tag = "plugins",
    responses((status = 200, body = TopologyView)))]
pub(crate) async fn topology(State(app): State<Shared>) -> Json<TopologyView> {
    Json(app.cluster_topology().into())
}
