//! The namespaces of a process behind one address: the first at the root, and each below
//! `/namespaces/<name>`.
//!
//! `/health`, `/ready` and `/metrics` at the root are those of the process. A process with one namespace serves the same
//! routes.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Json, Router};
use futures::future::join_all;
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::access_log::AccessLog;
use super::auth::{Entrance, authenticate};
use super::dispatch::Destination;
use super::health::ReadinessView;
use super::metrics;
use super::pages::Items;
use super::prefix::{self, Prefix};
use super::problem::{Answer, Problem};
use super::routes::READ;
use super::table::Table;
use super::{ServedNamespace, access_log, health, middleware};
use crate::app::{App, Readiness};

/// Where namespaces are served.
pub(super) const PATH: &str = "/namespaces";

/// The namespaces of a process.
pub(super) type Directory = Arc<Vec<Entry>>;

/// A namespace as its neighbours see it.
pub(super) struct Entry {
    name: String,
    app: Arc<App>,
    destination: Destination,
}

impl Entry {
    fn of(namespace: &ServedNamespace) -> Self {
        let ServedNamespace { name, app, .. } = namespace;
        let destination = namespace.destination();
        Self { name: name.clone(), app: Arc::clone(app), destination }
    }

    /// Asked where the namespace runs; none if it has ended.
    async fn readiness(&self) -> Option<Readiness> {
        let app = Arc::clone(&self.app);
        self.destination.run(async move { app.readiness().await }).await.ok()
    }
}

/// A namespace of the process.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Namespace)]
pub(crate) struct NamespaceView {
    /// Its name.
    namespace: String,
    /// Where its API is served. That of the first one is served at the root, too.
    path: String,
    /// Whether it can do its work; see `<path>/ready`.
    ready: bool,
}

/// Lists the namespaces of this process.
#[utoipa::path(get, path = "/namespaces", tag = "namespaces",
    responses((status = 200, body = Items<NamespaceView>)))]
pub(crate) async fn list(
    State(directory): State<Directory>,
    prefix: Prefix,
) -> Json<Items<NamespaceView>> {
    let all = directory.iter().map(|entry| async {
        NamespaceView {
            namespace: entry.name.clone(),
            path: prefix.join(&path_of(&entry.name)),
            ready: entry.readiness().await.is_some_and(|readiness| readiness.ready),
        }
    });
    Json(Items { items: join_all(all).await })
}

async fn unknown(
    State(directory): State<Directory>,
    Path(path): Path<Vec<(String, String)>>,
) -> Problem {
    let name = path.first().map(|(_, name)| name.as_str()).unwrap_or_default();
    let known: Vec<&str> = directory.iter().map(|entry| entry.name.as_str()).collect();
    Problem::not_found(format!("no namespace `{name}`: this host has {}", known.join(", ")))
}

/// Whether every namespace can do its work: that of the first, with those of the others.
async fn ready(State(directory): State<Directory>) -> Answer<(StatusCode, Json<ReadinessView>)> {
    let all = join_all(directory.iter().map(Entry::readiness)).await;
    let named = directory.iter().map(|entry| entry.name.clone()).zip(all);
    let found = named.map(|(name, readiness)| {
        let ended = || Problem::unavailable(format!("the namespace `{name}` has ended"));
        readiness.ok_or_else(ended).map(|readiness| (name.clone(), readiness))
    });
    Ok(ReadinessView::of_all(found.collect::<Answer<Vec<_>>>()?))
}

async fn all_metrics(State(directory): State<Directory>, headers: HeaderMap) -> Answer<Response> {
    metrics::of(directory.iter().map(|entry| &entry.app), &headers)
}

/// The part of the route table that belongs to the process.
pub(super) fn table(enforced: bool) -> Table<Directory> {
    Table::new(enforced).route(READ, routes!(list))
}

/// Where the API of a namespace is served.
pub(super) fn path_of(name: &str) -> String {
    format!("{PATH}/{name}")
}

/// The APIs of all namespaces, the first at the root as well.
pub(super) fn router(namespaces: &[ServedNamespace], apis: Vec<(Entrance, Router)>) -> Router {
    let (entrances, apis): (Vec<Entrance>, Vec<Router>) = apis.into_iter().unzip();
    let enforced = namespaces.first().is_some_and(|first| first.access.is_enforced());
    let (mut own, _) = table(enforced).split();
    if namespaces.len() > 1 {
        let handlers = get(all_metrics);
        own = own.route("/metrics", if enforced { READ.guard(handlers) } else { handlers });
    }
    if let Some(entrance) = entrances.into_iter().next() {
        own = own.route_layer(axum::middleware::from_fn_with_state(entrance, authenticate));
    }
    own = own
        .route("/namespaces/{name}", any(unknown))
        .route("/namespaces/{name}/{*path}", any(unknown));
    if namespaces.len() > 1 {
        own = own.route("/health", get(health::live)).route("/ready", get(ready));
    }
    let directory: Directory = Arc::new(namespaces.iter().map(Entry::of).collect());
    own = own
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(CatchPanicLayer::custom(middleware::panicked));
    if let Some(first) = namespaces.first() {
        let log = AccessLog::of(first);
        own = own.layer(axum::middleware::from_fn_with_state(log, access_log::observe));
    }
    let mut router = own.layer(axum::middleware::from_fn(prefix::follow)).with_state(directory);
    if let Some(first) = apis.first() {
        router = router.fallback_service(first.clone());
    }
    for (namespace, api) in namespaces.iter().zip(apis) {
        router = router.nest_service(&path_of(&namespace.name), api);
    }
    router
}
