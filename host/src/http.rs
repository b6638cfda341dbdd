//! The HTTP API: the route table in `routes.rs`, one folder per resource, one handler per file,
//! and a problem document (RFC 9457) for every error.
//!
//! Bounds: size of a body, duration of a request, concurrent requests (beyond that: 503, never a
//! queue).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{any, get};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::Span;
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::dispatch::{Destination, dispatch};
use self::prefix::Prefix;
use self::routes::Routes;
pub use self::server::Server;
use crate::app::App;
use crate::config::HttpSettings;
use crate::domain::subject_kind::SubjectKinds;

mod server;
mod routes;
mod subjects;
mod events;
mod products;
mod dead_letters;
mod chains;
mod stages;
mod plugins;
mod deliveries;
mod health;
mod metrics;
mod namespaces;
mod dispatch;
mod request;
mod pages;
mod problem;
mod middleware;
mod cors;
mod openapi;
mod prefix;

/// What handlers share.
type Shared = Arc<App>;

/// The OpenAPI 3.1 document of the API of a host with these kinds of subjects.
pub fn document(kinds: &SubjectKinds) -> Value {
    routes::routes(kinds).document
}

/// A namespace whose API is served.
pub struct ServedNamespace {
    /// Its name.
    pub name: String,
    /// What its handlers call.
    pub app: Arc<App>,
    /// Its limits.
    pub settings: HttpSettings,
    /// Where it runs.
    pub runtime: Handle,
    /// In which it runs.
    pub span: Span,
}

impl ServedNamespace {
    fn destination(&self) -> Destination {
        Destination { runtime: self.runtime.clone(), span: self.span.clone() }
    }
}

/// The whole API of a process. Requests run where their namespace does if there are several.
pub fn router(all: &[ServedNamespace], work: &RequestsInProgress) -> Router {
    let several = all.len() > 1;
    let apis = all.iter().map(|one| api(one, work, several.then(|| one.destination())));
    let router = namespaces::router(all, apis.collect());
    match all.first() {
        Some(first) => cors::allow(router, &first.settings.cors),
        None => router,
    }
}

/// The API of one namespace: routes, limits, and problem documents for errors.
fn api(
    namespace: &ServedNamespace,
    work: &RequestsInProgress,
    destination: Option<Destination>,
) -> Router {
    let ServedNamespace { app, settings, .. } = namespace;
    let Routes { business, operations, mut health, document } = routes::routes(app.kinds());
    let own_path = namespaces::path_of(&namespace.name);
    // The page finds the document beside it, whatever the prefix of both.
    let pages = SwaggerUi::new(openapi::DOCS_PATH).config(Config::new([openapi::PATH_FROM_DOCS]));
    let document = Arc::new(document);
    let document =
        get(move |prefix: Prefix| async move { openapi::below(&prefix, &own_path, &document) });
    let turnstile = app.services().turnstile.clone();
    let slots = Arc::new(Semaphore::new(settings.concurrency_max));
    let timeout = Duration::from_millis(settings.request_timeout_ms);
    let mut limited = Router::new()
        .nest("/api/v1", business.clone())
        // Without a route of its own it would be taken for an event of the type `import`.
        .route("/api/v1/events/import", any(middleware::no_such_route))
        .merge(business)
        .merge(operations)
        .fallback(middleware::no_such_route)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(turnstile, middleware::take_turn))
        .layer(axum::middleware::from_fn_with_state(work.clone(), middleware::track))
        .layer(axum::middleware::from_fn_with_state(settings.body_max_bytes, middleware::read_body))
        .layer(DefaultBodyLimit::max(settings.body_max_bytes))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, timeout));
    if let Some(destination) = destination {
        let dispatch = axum::middleware::from_fn_with_state(destination, dispatch);
        limited = limited.layer(dispatch.clone());
        health = health.layer(dispatch);
    }
    limited
        .layer(axum::middleware::from_fn_with_state(slots, middleware::admit))
        .merge(health.method_not_allowed_fallback(middleware::method_not_allowed))
        .route(openapi::PATH, document)
        .merge(pages)
        .layer(axum::middleware::from_fn(middleware::to_problem))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(axum::middleware::from_fn(prefix::follow))
        .with_state(Arc::clone(app))
}

/// The same, to be nested below a prefix of another router.
pub fn mounted(router: Router) -> Router {
    prefix::mounted(router)
}

/// Requests that were received whole, until their answer was sent.
pub type RequestsInProgress = TaskTracker;
