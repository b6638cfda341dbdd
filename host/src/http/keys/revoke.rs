//! `DELETE /keys/{id}`.

use axum::Json;
use axum::extract::{Path, State};

use super::view::ApiKeyView;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::KeyId;

/// Revokes an API key: on this host immediately, on all hosts within two seconds. Repeated, it changes
/// nothing.
#[utoipa::path(delete, path = "/keys/{id}", tag = "keys", params(KeyId),
    responses(
        (status = 200, body = ApiKeyView),
        (status = 404, description = "No key has this id", body = Problem),
    ))]
pub(crate) async fn revoke(
    State(app): State<Shared>,
    Path(KeyId(id)): Path<KeyId>,
) -> Answer<Json<ApiKeyView>> {
    Ok(Json(app.keys().revoke(&id).await?.into()))
}
