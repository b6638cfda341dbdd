//! `GET /plugins/{stage}/history`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Shared;
use crate::http::pages::Items;
use crate::http::problem::{Answer, Problem};
use crate::http::request::StageName;
use crate::store::PluginLoad;

/// Loads that are listed.
const HISTORY_MAX: u32 = 100;

/// A plugin that was loaded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PluginLoad)]
pub(crate) struct PluginLoadView {
    stage: String,
    /// SHA-256 of the file.
    digest: String,
    /// Version that the plugin states.
    version: String,
    /// Name of the host that loaded it.
    host: String,
    /// Milliseconds since 1970-01-01 UTC.
    loaded_at_ms: u64,
}

impl From<PluginLoad> for PluginLoadView {
    fn from(load: PluginLoad) -> Self {
        let PluginLoad { stage, digest, version, host, loaded_at_ms } = load;
        Self { stage, digest, version, host, loaded_at_ms }
    }
}

/// Lists the plugins that were loaded for a stage, newest first.
#[utoipa::path(get, path = "/plugins/{stage}/history", tag = "plugins", params(StageName),
    responses(
        (status = 200, body = Items<PluginLoadView>),
        (status = 404, description = "No plugin was ever loaded for such a stage", body = Problem),
    ))]
pub(crate) async fn history(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<Items<PluginLoadView>>> {
    let loads = app.plugin_history(&stage, HISTORY_MAX).await?;
    if loads.is_empty() {
        return Err(Problem::not_found(format!("no plugin was ever loaded for stage `{stage}`")));
    }
    Ok(Json(Items::of(loads)))
}
