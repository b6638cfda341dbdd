//! `GET /keys`.

use axum::Json;
use axum::extract::State;

use super::view::ApiKeyView;
use crate::http::Shared;
use crate::http::pages::Items;
use crate::http::problem::Answer;

/// Lists the API keys, the newest first: those included that expired or were revoked in the last 90
/// days.
#[utoipa::path(get, path = "/keys", tag = "keys",
    responses((status = 200, body = Items<ApiKeyView>)))]
pub(crate) async fn list(State(app): State<Shared>) -> Answer<Json<Items<ApiKeyView>>> {
    Ok(Json(Items::of(app.keys().list().await?)))
}
