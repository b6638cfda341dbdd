//! `POST /plugins/{stage}/rollback`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::RollBack;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{Fields, Parsed, RequestBody, StageName};

/// Which version: a digest or its first characters; none: the version before the present one.
pub(crate) struct RollbackRequest {
    digest: Option<String>,
}

impl RequestBody for RollbackRequest {
    const NAME: &'static str = "rollback request";
    const FIELDS: &'static [&'static str] = &["digest"];

    fn take(fields: &mut Fields) -> Self {
        Self { digest: fields.text("digest") }
    }
}

/// A plugin that was rolled back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginRolledBack {
    stage: String,
    /// SHA-256 of the file that serves now.
    digest: String,
}

/// Rolls a plugin back to an earlier version on this host: to the one given, or to the version
/// before the present one.
#[utoipa::path(post, path = "/plugins/{stage}/rollback", tag = "plugins", params(StageName),
    request_body = ref("#/components/schemas/RollbackRequest"),
    responses(
        (status = 200, body = PluginRolledBack),
        (status = 404, description = "No plugin file serves such a stage here", body = Problem),
        (status = 409, description = "The version is unknown, or does not serve", body = Problem),
    ))]
pub(crate) async fn roll_back(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(RollbackRequest { digest }): Parsed<RollbackRequest>,
) -> Answer<Json<PluginRolledBack>> {
    match app.roll_back(&stage, digest.as_deref()).await? {
        RollBack::Done(digest) => Ok(Json(PluginRolledBack { stage, digest })),
        RollBack::NotFound => {
            Err(Problem::not_found(format!("no plugin file serves a stage `{stage}` on this host")))
        }
        RollBack::NoSuchVersion => {
            let which = digest.map_or_else(
                || "no earlier version".to_owned(),
                |digest| format!("not exactly one version `{digest}…`"),
            );
            let detail = format!(
                "{which} of `{stage}` is archived on this host; see GET /plugins/{stage}/history"
            );
            Err(Problem::new(Kind::UNKNOWN_VERSION, detail))
        }
        RollBack::Refused(why) => Err(Problem::new(Kind::ROLLBACK_FAILED, why)),
    }
}
