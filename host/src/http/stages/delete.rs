//! `DELETE /stages/{stage}`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::StageDeletion;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::StageName;

/// A stage that was deleted from the pipeline.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StageDeleted {
    stage: String,
    /// `deleted`.
    state: &'static str,
    /// Deliveries that waited for it: they are skipped.
    skipped: u64,
}

/// Deletes a stage from the pipeline, when no host runs it, and skips what waits for it.
#[utoipa::path(delete, path = "/stages/{stage}", tag = "stages", params(StageName),
    responses(
        (status = 200, body = StageDeleted),
        (status = 404, description = "Nothing is routed to such a stage", body = Problem),
        (status = 409, description = "A host runs it", body = Problem),
    ))]
pub(crate) async fn delete(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<StageDeleted>> {
    let deletion = app.delete_stage(&stage).await.map_err(|error| {
        Problem::unavailable(format!("the stage could not be deleted: {error}"))
    })?;
    match deletion {
        StageDeletion::Deleted { skipped } => {
            Ok(Json(StageDeleted { stage, state: "deleted", skipped }))
        }
        StageDeletion::NotFound => {
            Err(Problem::not_found(format!("nothing is routed to a stage `{stage}`")))
        }
        StageDeletion::InUse => Err(Problem::new(
            Kind::STAGE_IN_USE,
            format!(
                "a host runs `{stage}`, or did so in the last 30 seconds: remove its plugin first"
            ),
        )),
    }
}
