//! `POST /keys/{id}/rotate`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::view::IssuedKeyView;
use crate::app::keys::OVERLAP_MS;
use crate::domain::access::Requester;
use crate::domain::json::whole;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Fields, KeyId, Parsed, RequestBody};

/// How long the old key stays valid, milliseconds.
pub(crate) struct Overlap(u64);

impl RequestBody for Overlap {
    const NAME: &'static str = "rotation";
    const FIELDS: &'static [&'static str] = &["overlap_ms"];

    fn take(fields: &mut Fields) -> Self {
        let Some(given) = fields.take("overlap_ms") else { return Self(OVERLAP_MS) };
        Self(whole(&given).unwrap_or_else(|| {
            fields.problem("/overlap_ms", "must be a whole number, 0 or more");
            OVERLAP_MS
        }))
    }
}

/// Creates the successor of an API key, with its principal and roles. The old key stays valid for
/// `overlap_ms`.
#[utoipa::path(post, path = "/keys/{id}/rotate", tag = "keys", params(KeyId),
    request_body = ref("#/components/schemas/Rotation"),
    responses(
        (status = 201, description = "Created", body = IssuedKeyView),
        (status = 404, description = "No key has this id", body = Problem),
        (status = 409, description = "The key is not valid, or the principal has two valid keys",
            body = Problem),
    ))]
pub(crate) async fn rotate(
    State(app): State<Shared>,
    requester: Requester,
    Path(KeyId(id)): Path<KeyId>,
    Parsed(Overlap(overlap_ms)): Parsed<Overlap>,
) -> Answer<(StatusCode, Json<IssuedKeyView>)> {
    let created_by = Some(requester.principal.id().to_owned());
    let issued = app.keys().rotate(&id, overlap_ms, created_by).await?;
    Ok((StatusCode::CREATED, Json(issued.into())))
}
