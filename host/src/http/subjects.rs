//! The routes of every kind of subjects: submit, list, show, cancel, and the events of one subject.
//!
//! One set of handlers serves all kinds: each kind has its routes at its own path, and a request
//! carries the kind along ([`OfKind`]). The OpenAPI document describes them from a template.

use std::sync::Arc;

use axum::Extension;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::middleware::from_fn;
use utoipa_axum::router::UtoipaMethodRouter;
use utoipa_axum::routes;

use super::Shared;
use super::audit::act;
use super::problem::{Answer, Problem};
use crate::domain::access::Requester;
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

    /// The type of the first event of its subjects.
    pub(super) fn first_event(&self) -> &str {
        &self.0.first_event
    }

    /// Hides a subject from a requester who sees only its own.
    async fn check_owner(
        &self,
        app: &Shared,
        requester: &Requester,
        key: &SubjectKey,
    ) -> Answer<()> {
        if requester.only_owner(app).is_none() {
            return Ok(());
        }
        let subject = app.services().store.subject(key).await?;
        let visible = subject.is_some_and(|subject| requester.may_see(app, &subject));
        if visible { Ok(()) } else { Err(self.missing(key.id())) }
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

/// The handlers of every kind, each with its path below that of the kind. Who cancels is recorded.
pub(super) fn handlers() -> [(&'static str, UtoipaMethodRouter<Shared>); 5] {
    let (schemas, paths, cancel) = routes!(cancel::cancel);
    [
        ("", routes!(create::create)),
        ("", routes!(list::list)),
        ("/{id}", routes!(show::show)),
        ("/{id}/events", routes!(events::events)),
        ("/{id}/cancel", (schemas, paths, cancel.layer(from_fn(act)))),
    ]
}

/// Lets requests to the routes of a kind carry it along.
pub(super) fn of_kind(kind: &Arc<SubjectKind>) -> Extension<OfKind> {
    Extension(OfKind(Arc::clone(kind)))
}
