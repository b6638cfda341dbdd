//! `GET /hosts`: the live hosts of the namespace.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use crate::app::HostStatus;

/// The live hosts of a namespace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hosts {
    /// The hosts by name.
    items: Vec<HostView>,
    /// The name of the host that answers.
    answered_by: String,
}

/// A live host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Host)]
pub(crate) struct HostView {
    /// Its name.
    host: String,
    /// Version of the program; none: it has not reported yet, or in a format that the host that answers
    /// cannot read.
    version: Option<String>,
    /// When it started, milliseconds since 1970-01-01 UTC.
    started_at_ms: Option<u64>,
    /// When it reported last, milliseconds since 1970-01-01 UTC.
    seen_at_ms: u64,
    /// The address on which it serves its API, if it serves one itself.
    api: Option<String>,
    /// The stages that it runs.
    stages: Vec<HostStageView>,
}

/// A stage that a host runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HostStage)]
pub(crate) struct HostStageView {
    /// Its name.
    stage: String,
    /// Version that runs there.
    version: String,
}

impl From<HostStatus> for HostView {
    fn from(status: HostStatus) -> Self {
        let runs = status.stages.into_iter().filter_map(|stage| {
            Some(HostStageView { stage: stage.stage, version: stage.version? })
        });
        Self {
            host: status.host,
            seen_at_ms: status.seen_at_ms,
            api: status.api,
            stages: runs.collect(),
            version: status.is_readable.then_some(status.version),
            started_at_ms: status.is_readable.then_some(status.started_at_ms),
        }
    }
}

/// Lists the live hosts of the namespace, with the stages that each runs. A host that stops leaves the list;
/// one that crashed does so after 30 seconds.
#[utoipa::path(get, path = "/hosts", tag = "hosts", responses((status = 200, body = Hosts)))]
pub(crate) async fn list(State(app): State<Shared>) -> Json<Hosts> {
    let items = app.hosts().into_iter().map(Into::into).collect();
    Json(Hosts { items, answered_by: app.host_name().to_owned() })
}
