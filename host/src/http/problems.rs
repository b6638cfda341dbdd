//! `/problems`: what the `type` of a problem document means.

use axum::Json;
use axum::extract::Path;

use super::lists::Items;
use super::problem::{Answer, Kind, Problem, ProblemKind};

/// Every kind of problem that the API answers with.
#[utoipa::path(get, path = "/problems", tag = "problems", responses((status = 200, body = Items<ProblemKind>)))]
pub(super) async fn list() -> Json<Items<ProblemKind>> {
    Json(Items { items: Kind::ALL.map(Kind::describe).into() })
}

/// One kind of problem: its `type` is this address.
#[utoipa::path(get, path = "/problems/{name}", tag = "problems", params(("name" = String, Path, description = "Last part of the `type`")),
    responses((status = 200, body = ProblemKind), (status = 404, description = "No problem has this type", body = Problem)))]
pub(super) async fn show(Path(name): Path<String>) -> Answer<Json<ProblemKind>> {
    let mut kinds = Kind::ALL.map(Kind::describe).into_iter();
    let found = kinds.find(|kind| kind.uri.strip_prefix("/problems/") == Some(&*name));
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("no kind of problem is called `{name}`")))
}
