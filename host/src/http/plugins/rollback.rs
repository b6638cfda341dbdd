//! `POST /plugins/{stage}/rollback`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{HostAnswer, RollBack, RolledBackStage};
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{Fields, Parsed, RequestBody, StageName};

/// Which version, and why.
pub(crate) struct RollbackRequest {
    /// A digest or its first characters; none: the version before the present one.
    digest: Option<String>,
    reason: Option<String>,
}

impl RequestBody for RollbackRequest {
    const NAME: &'static str = "rollback request";
    const FIELDS: &'static [&'static str] = &["digest", "reason"];

    fn take(fields: &mut Fields) -> Self {
        Self { digest: fields.text("digest"), reason: fields.reason() }
    }
}

/// A plugin that was rolled back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PluginRolledBack {
    stage: String,
    /// SHA-256 of the file that serves now, on the host that went first.
    digest: String,
    /// What came of it on each host that served another version from a file; first, the host that went first.
    hosts: Vec<HostRolledBack>,
}

/// What came of a roll-back on one host.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HostRolledBack {
    /// Name of the host.
    host: String,
    /// SHA-256 of the file that serves there now; none: it was not rolled back.
    digest: Option<String>,
    /// Why it was not rolled back.
    error: Option<String>,
}

impl From<HostAnswer> for HostRolledBack {
    fn from(HostAnswer { host, digest }: HostAnswer) -> Self {
        match digest {
            Ok(digest) => Self { host, digest: Some(digest), error: None },
            Err(error) => Self { host, digest: None, error: Some(error) },
        }
    }
}

/// Rolls a plugin back to an earlier version on every live host that serves it from a file: to the one given,
/// or to the version before the present one. The host that loaded its version last goes first; if it is
/// refused there, no other host is asked.
#[utoipa::path(post, path = "/plugins/{stage}/rollback", tag = "plugins", params(StageName),
    request_body = ref("#/components/schemas/RollbackRequest"),
    responses(
        (status = 200, body = PluginRolledBack),
        (status = 404, description = "No plugin file serves such a stage on a live host", body = Problem),
        (status = 409, description = "The version is unknown, or does not serve", body = Problem),
    ))]
pub(crate) async fn roll_back(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(RollbackRequest { digest, reason }): Parsed<RollbackRequest>,
) -> Answer<Json<PluginRolledBack>> {
    let (version, reason) = (digest.as_deref(), reason.as_deref());
    let rolled_back = app.roll_back_on_all_hosts(&stage, version, reason).await?;
    let RolledBackStage { host, result, others } = rolled_back;
    match result {
        RollBack::Done(digest) => {
            let first = HostRolledBack { host, digest: Some(digest.clone()), error: None };
            let hosts = std::iter::once(first).chain(others.into_iter().map(Into::into)).collect();
            Ok(Json(PluginRolledBack { stage, digest, hosts }))
        }
        RollBack::NotFound => Err(Problem::not_found(format!(
            "no plugin file serves a stage `{stage}` on a live host"
        ))),
        RollBack::NoSuchVersion => {
            let which = digest.map_or_else(
                || "no earlier version".to_owned(),
                |digest| format!("not exactly one version `{digest}…`"),
            );
            let detail = format!(
                "{which} of `{stage}` is archived on host `{host}`; see GET /plugins/{stage}/history"
            );
            Err(Problem::new(Kind::UNKNOWN_VERSION, detail))
        }
        RollBack::Refused(why) => Err(Problem::new(Kind::ROLLBACK_FAILED, why)),
    }
}
