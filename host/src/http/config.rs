//! `GET /config`: the configuration of this host, without confidential values.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use crate::config::{Beside, ShownSetting};
use crate::domain::access::{Permission, Requester, Target};

/// The configuration of a host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Configuration)]
pub(crate) struct ConfigView {
    /// Every setting that has an effect, in the order of the keys.
    settings: Vec<SettingView>,
}

/// A setting.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Setting)]
pub(crate) struct SettingView {
    /// Its key, such as `http.listen`.
    key: String,
    /// Its value, with `***` in the place of what is confidential.
    value: Value,
    /// Whether it differs from its default; for a setting of a stage, from that in `defaults`.
    changed: bool,
    /// Whether something of the value is hidden.
    masked: bool,
}

impl From<ShownSetting> for SettingView {
    fn from(ShownSetting { key, value, changed, masked }: ShownSetting) -> Self {
        Self { key, value, changed, masked }
    }
}

/// Shows the configuration with which this host runs: the file, the environment and the defaults.
///
/// Passwords, commands and the settings of stages are `***`, and so is every text that is not known to
/// be harmless. The names of secrets need the permission `secret-names`.
#[utoipa::path(get, path = "/config", tag = "config",
    responses((status = 200, body = ConfigView)))]
pub(crate) async fn show(State(app): State<Shared>, requester: Requester) -> Json<ConfigView> {
    let names = requester.may(Permission::SecretNames, Target::Everything);
    let beside: &[Beside] = if names { &[Beside::SecretNames] } else { &[] };
    let settings = app.services().pipeline.config().shown_settings(beside);
    Json(ConfigView { settings: settings.into_iter().map(Into::into).collect() })
}
