//! `GET /dead-letters` and `GET /dead-letters/groups`.

use axum::Json;
use axum::extract::State;

use super::filter::ListDeadLetters;
use super::view::{DeadLetterGroupView, DeadLetterSummary};
use crate::http::Shared;
use crate::http::pages::Listing;
use crate::http::problem::Answer;
use crate::http::request::ValidQuery;

/// Lists dead letters, newest first.
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters", params(ListDeadLetters),
    responses((status = 200, body = Listing<DeadLetterSummary>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    ValidQuery(query): ValidQuery<ListDeadLetters>,
) -> Answer<Json<Listing<DeadLetterSummary>>> {
    Ok(Json(Listing::of(app.dead_letters().list(query.filter()?).await?)))
}

/// Lists groups of dead letters with the same failure; the group of the newest dead letter first.
#[utoipa::path(get, path = "/dead-letters/groups", tag = "dead letters", params(ListDeadLetters),
    responses((status = 200, body = Listing<DeadLetterGroupView>)))]
pub(crate) async fn groups(
    State(app): State<Shared>,
    ValidQuery(query): ValidQuery<ListDeadLetters>,
) -> Answer<Json<Listing<DeadLetterGroupView>>> {
    Ok(Json(Listing::of(app.dead_letters().groups(query.filter()?).await?)))
}
