//! The routes of every kind of subjects: submit, list, show, cancel, and the events of one subject.
//!
//! One set of handlers serves all kinds: each kind has its routes at its own path, and a request
//! carries the kind along ([`OfKind`]). The OpenAPI document describes them from [`template`].

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Extension, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::problem::{Answer, Problem};
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKind;

mod cancel;
mod create;
mod events;
mod kinds;
mod list;
mod show;
pub(super) mod view;

pub(super) use self::kinds::*;

/// The path in the documentation of the handlers; each kind has its own.
pub(super) const TEMPLATE_PATH: &str = "/kind";

/// The kind whose path a request was sent to.
#[derive(Clone)]
pub(crate) struct OfKind(Arc<SubjectKind>);

impl OfKind {
    /// The key of the subject with this id.
    fn key(&self, id: &str) -> Answer<SubjectKey> {
        self.0.key(id).ok_or_else(|| self.missing(id))
    }

    /// There is no such subject.
    fn missing(&self, id: &str) -> Problem {
        Problem::not_found(format!("no {} `{id}`", self.0.name))
    }

    /// Where the API serves the subject.
    fn location(&self, key: &SubjectKey) -> String {
        format!("{}/{}", self.0.path, key.id())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfKind {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// The routes of a kind.
pub(super) fn routes_of(kind: &Arc<SubjectKind>) -> Router<Shared> {
    let path = &kind.path;
    Router::new()
        .route(path, post(create::create).get(list::list))
        .route(&format!("{path}/{{id}}"), get(show::show))
        .route(&format!("{path}/{{id}}/events"), get(events::events))
        .route(&format!("{path}/{{id}}/cancel"), post(cancel::cancel))
        .route_layer(Extension(OfKind(Arc::clone(kind))))
}

/// The documentation of the same routes, for a kind called `subject` at [`TEMPLATE_PATH`].
pub(super) fn template() -> utoipa::openapi::OpenApi {
    let router = OpenApiRouter::<Shared>::default()
        .routes(routes!(create::create, list::list))
        .routes(routes!(show::show))
        .routes(routes!(events::events))
        .routes(routes!(cancel::cancel));
    router.split_for_parts().1
}
