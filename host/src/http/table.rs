//! What builds the route table: a route cannot be added without saying what it needs, or that it is
//! open. The need is checked before the handler, and documented.

use axum::Router;
use axum::routing::MethodRouter;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem, Paths};
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::auth::Need;

/// What the document says about the need of an operation.
pub(super) const EXTENSION: &str = "x-permission";
/// A token in `Authorization`, in the document.
pub(super) const BEARER: &str = "bearer";
/// The cookie of a session, in the document.
pub(super) const SESSION: &str = "session";

/// Routes, each with what a request needs.
pub(super) struct Table<S> {
    enforced: bool,
    router: OpenApiRouter<S>,
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    /// Without routes. `enforced`: requests need what the table says.
    pub(super) fn new(enforced: bool) -> Self {
        Self { enforced, router: OpenApiRouter::default() }
    }

    /// Adds a route that lets pass who has what it needs.
    pub(super) fn route(self, need: Need, routes: UtoipaMethodRouter<S>) -> Self {
        let (schemas, mut paths, handlers) = routes;
        document(&mut paths, Some(need));
        let handlers = if self.enforced { need.guard(handlers) } else { handlers };
        Self { router: self.router.routes((schemas, paths, handlers)), ..self }
    }

    /// Adds a route that is open to everyone.
    pub(super) fn open(self, routes: UtoipaMethodRouter<S>) -> Self {
        let (schemas, mut paths, handlers) = routes;
        document(&mut paths, None);
        Self { router: self.router.routes((schemas, paths, handlers)), ..self }
    }

    /// Adds pages for people, which contain no data: open to everyone, and not part of the documented API.
    pub(super) fn open_pages(self, path: &str, pages: MethodRouter<S>) -> Self {
        Self { router: self.router.route(path, pages), ..self }
    }

    /// The routes, and their documentation.
    pub(super) fn split(self) -> (Router<S>, OpenApi) {
        self.router.split_for_parts()
    }
}

fn document(paths: &mut Paths, need: Option<Need>) {
    for operation in paths.paths.values_mut().flat_map(operations) {
        let Some(need) = need else {
            operation.security = Some(Vec::new());
            continue;
        };
        let schemes = [BEARER, SESSION];
        let requirements = schemes.map(|name| SecurityRequirement::new(name, [""; 0]));
        operation.security = Some(requirements.to_vec());
        let needs = format!("Needs: {}.", need.describe());
        let description = operation.description.take().filter(|text| !text.is_empty());
        let described = description.map(|text| format!("{text}\n\n{needs}"));
        operation.description = Some(described.unwrap_or(needs));
        let extensions = operation.extensions.get_or_insert_default();
        extensions.insert(EXTENSION.to_owned(), need.document());
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
    all.into_iter().flatten()
}
