//! `GET /problems` and `GET /problems/{name}`: what the `type` of a problem document means.

use axum::Json;
use axum::extract::Path;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Answer, Kind, Problem};
use crate::http::pages::Items;
use crate::http::prefix::Prefix;

/// A type of problem.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemType {
    /// The URI, relative to this host.
    #[serde(rename = "type")]
    uri: String,
    /// A noun phrase, the same for every problem of this type.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// When it occurs, and what to do about it.
    remedy: &'static str,
}

impl ProblemType {
    fn below(prefix: &Prefix, Kind { uri, title, status, remedy }: Kind) -> Self {
        Self { uri: prefix.join(uri), title, status: status.as_u16(), remedy }
    }
}

/// Lists every type of problem that the API answers with.
#[utoipa::path(get, path = "/problems", tag = "problems",
    responses((status = 200, body = Items<ProblemType>)))]
pub(crate) async fn list(prefix: Prefix) -> Json<Items<ProblemType>> {
    Json(Items::of(Kind::ALL.iter().map(|kind| ProblemType::below(&prefix, *kind))))
}

/// Explains one type of problem: its `type` is this address.
#[utoipa::path(get, path = "/problems/{name}", tag = "problems",
    params(("name" = String, Path, description = "Last part of the `type`")),
    responses(
        (status = 200, body = ProblemType),
        (status = 404, description = "No such type of problem", body = Problem),
    ))]
pub(crate) async fn show(prefix: Prefix, Path(name): Path<String>) -> Answer<Json<ProblemType>> {
    let found = Kind::ALL.iter().find(|kind| kind.uri.strip_prefix("/problems/") == Some(&*name));
    found
        .map(|kind| Json(ProblemType::below(&prefix, *kind)))
        .ok_or_else(|| Problem::not_found(format!("no type of problem `{name}`")))
}
