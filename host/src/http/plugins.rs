//! `/plugins` and `/topology`: what runs, and how it hangs together.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::fields::Fields;
use super::json::JsonBody;
use super::lists::Items;
use super::paths::StageName;
use super::problem::{Answer, Kind, Problem};
use crate::app::{PluginStatus, RollBack};
use crate::pipeline::Topology;
use crate::store::PluginLoad;

/// Loads shown.
const HISTORY: u32 = 100;

/// A stage with the plugin that serves it, or a file that serves none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PluginStatus)]
pub(super) struct PluginStatusView {
    /// The stage; none for a file that was refused before its stage was known.
    stage: Option<String>,
    /// Plugin file; none for a native stage.
    file: Option<String>,
    /// Version that serves.
    version: Option<String>,
    /// SHA-256 of the file that serves.
    digest: Option<String>,
    /// `serving`, `removed` or `failed`.
    state: &'static str,
    /// Why the newest content of the file does not serve.
    last_error: Option<String>,
    /// Why the host rolled a newer version back to this one.
    rolled_back: Option<String>,
    /// When this version was loaded, milliseconds since 1970-01-01 UTC.
    loaded_at_ms: Option<u64>,
    /// Topic patterns that it consumes.
    consumes: Vec<String>,
    /// Event types that it emits.
    emits: Vec<String>,
}

impl From<PluginStatus> for PluginStatusView {
    fn from(status: PluginStatus) -> Self {
        Self {
            stage: status.stage,
            file: status.file,
            version: status.version,
            digest: status.digest,
            state: status.state.as_str(),
            last_error: status.last_error,
            rolled_back: status.rolled_back,
            loaded_at_ms: status.loaded_at_ms,
            consumes: status.consumes,
            emits: status.emits,
        }
    }
}

/// Every stage with the plugin that serves it, and every file that serves none.
#[utoipa::path(get, path = "/plugins", tag = "plugins", responses((status = 200, body = Items<PluginStatusView>)))]
pub(super) async fn list(State(app): State<Shared>) -> Json<Items<PluginStatusView>> {
    Json(Items { items: app.plugins().into_iter().map(Into::into).collect() })
}

/// Which versions served a stage, newest first.
#[utoipa::path(get, path = "/plugins/{stage}/history", tag = "plugins", params(StageName),
    responses((status = 200, body = Items<PluginLoad>), (status = 404, description = "No plugin ever served such a stage", body = Problem)))]
pub(super) async fn history(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
) -> Answer<Json<Items<PluginLoad>>> {
    let items = app.plugin_history(&stage, HISTORY).await?;
    if items.is_empty() {
        return Err(Problem::not_found(format!("no plugin was ever loaded for a stage `{stage}`")));
    }
    Ok(Json(Items { items }))
}

/// A version that was put back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolledBack {
    stage: String,
    /// SHA-256 of the file that serves now.
    digest: String,
}

/// Puts an earlier version of a plugin back on this host: the one named, or the last one that was
/// another.
#[utoipa::path(post, path = "/plugins/{stage}/rollback", tag = "plugins", params(StageName),
    request_body = ref("#/components/schemas/RollBack"),
    responses(
        (status = 200, body = RolledBack),
        (status = 404, description = "No plugin file runs such a stage here", body = Problem),
        (status = 409, description = "There is no such version, or it does not serve", body = Problem),
    ))]
pub(super) async fn roll_back(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    JsonBody(body): JsonBody,
) -> Answer<Json<RolledBack>> {
    let mut fields = Fields::optional(body, &["digest"]);
    let digest = fields.text("digest");
    fields.finish("a wish to roll back")?;
    let digest = digest.as_deref();
    match app.roll_back(&stage, digest).await? {
        RollBack::Done(digest) => Ok(Json(RolledBack { stage, digest })),
        RollBack::NotFound => {
            Err(Problem::not_found(format!("no plugin file runs a stage `{stage}` on this host")))
        }
        RollBack::NoSuchVersion => {
            let which = digest.map_or_else(
                || "no earlier version".to_owned(),
                |digest| format!("not exactly one version `{digest}…`"),
            );
            let detail = format!(
                "{which} of `{stage}` is kept on this host; GET /plugins/{stage}/history shows what served"
            );
            Err(Problem::new(Kind::NoSuchVersion, detail))
        }
        RollBack::Refused(why) => Err(Problem::new(Kind::RollBack, why)),
    }
}

/// The pipeline as stages and the event types between them.
#[utoipa::path(get, path = "/topology", tag = "plugins", responses((status = 200, body = Topology)))]
pub(super) async fn topology(State(app): State<Shared>) -> Json<Topology> {
    Json(app.services().pipeline.topology())
}
