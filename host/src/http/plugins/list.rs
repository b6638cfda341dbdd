//! `GET /plugins`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{ClusterPlugin, OnHost, PluginStatus};
use crate::domain::access::{Permission, Requester, Target};
use crate::http::Shared;
use crate::http::pages::Items;

/// A stage with the plugin that serves it, or a file that serves none, on all live hosts: as on the host that
/// loaded it last.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PluginStatus)]
pub(crate) struct PluginStatusView {
    /// The stage; none for a file that was refused before its stage was known.
    stage: Option<String>,
    /// Plugin file; none for a native stage.
    file: Option<String>,
    /// Version that serves.
    version: Option<String>,
    /// SHA-256 of the file that serves.
    digest: Option<String>,
    /// `serving`, `compiling`, `removed` or `failed`.
    state: &'static str,
    /// Why the newest content of the file does not serve, or why the folder cannot be read.
    last_error: Option<String>,
    /// What has to change before the newest content serves.
    waiting_for: Option<String>,
    /// Since when the newest content of the file is compiled or waits for that, milliseconds since
    /// 1970-01-01 UTC.
    compiling_since_ms: Option<u64>,
    /// Why the host rolled a newer version back to this one.
    rolled_back: Option<String>,
    /// When this version was loaded, milliseconds since 1970-01-01 UTC.
    loaded_at_ms: Option<u64>,
    /// Topic patterns that it consumes.
    consumes: Vec<String>,
    /// Event types that it emits.
    emits: Vec<String>,
    /// What is doubtful about it: event types that it consumes and does not handle.
    warnings: Vec<String>,
    /// The live hosts that have it, by name.
    hosts: Vec<PluginOnHostView>,
}

/// A plugin on one host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PluginOnHost)]
pub(crate) struct PluginOnHostView {
    /// Name of the host.
    host: String,
    /// Version that serves there.
    version: Option<String>,
    /// SHA-256 of the file that serves there.
    digest: Option<String>,
    /// `serving`, `compiling`, `removed` or `failed`.
    state: &'static str,
    /// Why the newest content of the file does not serve there, or why the folder cannot be read.
    last_error: Option<String>,
    /// What has to change before the newest content serves there.
    waiting_for: Option<String>,
    /// Since when the newest content of the file is compiled or waits for that, milliseconds since
    /// 1970-01-01 UTC.
    compiling_since_ms: Option<u64>,
    /// Why the host rolled a newer version back to this one.
    rolled_back: Option<String>,
    /// When this version was loaded there, milliseconds since 1970-01-01 UTC.
    loaded_at_ms: Option<u64>,
}

impl From<OnHost<PluginStatus>> for PluginOnHostView {
    fn from(OnHost { host, status }: OnHost<PluginStatus>) -> Self {
        Self {
            host,
            version: status.version,
            digest: status.digest,
            state: status.state.as_str(),
            last_error: status.last_error,
            waiting_for: status.waiting_for,
            compiling_since_ms: status.compiling_since_ms,
            rolled_back: status.rolled_back,
            loaded_at_ms: status.loaded_at_ms,
        }
    }
}

impl From<ClusterPlugin> for PluginStatusView {
    fn from(ClusterPlugin { status, hosts }: ClusterPlugin) -> Self {
        Self {
            stage: status.stage,
            file: status.file,
            version: status.version,
            digest: status.digest,
            state: status.state.as_str(),
            last_error: status.last_error,
            waiting_for: status.waiting_for,
            compiling_since_ms: status.compiling_since_ms,
            rolled_back: status.rolled_back,
            loaded_at_ms: status.loaded_at_ms,
            consumes: status.consumes,
            emits: status.emits,
            warnings: status.warnings,
            hosts: hosts.into_iter().map(Into::into).collect(),
        }
    }
}

/// Lists every stage of the live hosts with the plugin that serves it, and every file that serves none:
/// those that the principal may see. A stage that hosts serve from files of different names is listed once
/// for each.
#[utoipa::path(get, path = "/plugins", tag = "plugins",
    responses((status = 200, body = Items<PluginStatusView>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    requester: Requester,
) -> Json<Items<PluginStatusView>> {
    let visible = |plugin: &ClusterPlugin| {
        let target = plugin.status.stage.as_deref().map_or(Target::Everything, Target::Stage);
        requester.may(Permission::Read, target)
    };
    Json(Items::of(app.cluster_plugins().into_iter().filter(visible)))
}
