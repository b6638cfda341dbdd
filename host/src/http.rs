//! The HTTP API: the route table in `routes.rs`, one folder per resource, one handler per file,
//! and a problem document (RFC 9457) for every error.
//!
//! Bounds: size of a body, duration of a request, concurrent requests that were received (beyond that:
//! 503, never a queue), bytes of answers that wait for their readers. A body that is slow to arrive
//! takes no place from a request that is complete. Components have bounds of their own (`uploads.rs`).
//!
//! Costs: for each request, every layer of a router clones all layers below it, so those that frequent
//! requests pass are added as one: `(outer, inner)`.

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

use self::access_log::AccessLog;
use self::auth::Entrance;
pub use self::auth::jwt::Jwt;
pub use self::auth::{Access, AuthenticationError, Authenticator};
use self::body_budget::BodyBudget;
use self::dispatch::{Destination, dispatch};
use self::middleware::Reception;
pub use self::peer::Peer;
use self::prefix::Prefix;
use self::rate_limits::Addresses;
use self::routes::Routes;
pub use self::server::{OpenConnections, Server};
pub(crate) use self::server::{Timeouts, places};
use crate::app::App;
use crate::config::HttpSettings;
use crate::domain::subject_kind::SubjectKinds;

mod server;
mod peer;
mod routes;
mod table;
mod auth;
mod browsers;
mod keys;
mod session;
mod subjects;
mod events;
mod products;
mod audit;
mod config;
mod dead_letters;
mod chains;
mod stages;
mod plugins;
mod deliveries;
mod hosts;
mod limits;
mod health;
mod encryption;
mod message_keys;
mod metrics;
mod namespaces;
mod dispatch;
mod request;
mod pages;
mod problem;
mod middleware;
mod access_log;
mod body_budget;
mod uploads;
mod rate_limits;
mod answers;
mod held_body;
mod cors;
mod openapi;
mod console;
mod prefix;

/// What handlers share.
type Shared = Arc<App>;

/// The OpenAPI 3.1 document of the API of a host with these kinds of subjects.
pub fn document(kinds: &SubjectKinds) -> Value {
    routes::routes(kinds, true).document
}

/// A namespace whose API is served.
pub struct ServedNamespace {
    /// Its name.
    pub name: String,
    /// What its handlers call.
    pub app: Arc<App>,
    /// Its limits.
    pub settings: HttpSettings,
    /// Who may use it.
    pub access: Arc<Access>,
    /// Where it runs.
    pub runtime: Handle,
    /// In which it runs.
    pub span: Span,
}

impl ServedNamespace {
    fn entrance(&self, addresses: &Arc<Addresses>) -> Entrance {
        Entrance {
            app: Arc::clone(&self.app),
            access: Arc::clone(&self.access),
            addresses: Arc::clone(addresses),
            principals: Arc::new(rate_limits::principals(self.settings.rate_limits)),
        }
    }

    /// How its requests are received.
    fn reception(&self, entrance: Entrance, work: &RequestsInProgress) -> Reception {
        Reception {
            entrance,
            budget: BodyBudget::new(&self.settings, Arc::clone(self.app.refusals())),
            slots: Semaphore::new(self.settings.concurrency_max),
            concurrency_max: self.settings.concurrency_max,
            answers: answers::Budget::new(),
            work: work.clone(),
            connections: None,
        }
    }

    fn destination(&self) -> Destination {
        Destination { runtime: self.runtime.clone(), span: self.span.clone() }
    }
}

/// The whole API of a process. Requests run where their namespace does if there are several.
pub fn router(
    all: &[ServedNamespace],
    work: &RequestsInProgress,
    connections: &Arc<OpenConnections>,
) -> Router {
    let Some(first) = all.first() else { return namespaces::router(all, Vec::new()) };
    let addresses = Arc::new(rate_limits::addresses(first.settings.rate_limits));
    let mut receptions: Vec<Reception> =
        all.iter().map(|one| one.reception(one.entrance(&addresses), work)).collect();
    receptions[0].connections = Some(Arc::clone(connections));
    let apis = all.iter().zip(receptions).map(|(one, reception)| {
        let entrance = reception.entrance.clone();
        let destination = (all.len() > 1).then(|| one.destination());
        (entrance, api(one, Arc::new(reception), destination))
    });
    browsers::protect(namespaces::router(all, apis.collect()), first)
}

/// The API of one namespace: routes, limits, and problem documents for errors.
fn api(
    namespace: &ServedNamespace,
    reception: Arc<Reception>,
    destination: Option<Destination>,
) -> Router {
    let ServedNamespace { app, settings, .. } = namespace;
    let enforced = namespace.access.is_enforced();
    let Routes { business, operations, uploads, observation, open, document } =
        routes::routes(app.kinds(), enforced);
    let document = if enforced { document } else { openapi::without_security(document) };
    let own_path = namespaces::path_of(&namespace.name);
    // The page finds the document beside it, whatever the prefix of both.
    let pages = SwaggerUi::new(openapi::DOCS_PATH).config(Config::new([openapi::PATH_FROM_DOCS]));
    let document = Arc::new(document);
    let document =
        get(move |prefix: Prefix| async move { openapi::below(&prefix, &own_path, &document) });
    let timeout = Duration::from_millis(settings.request_timeout_ms);
    let entrance = reception.entrance.clone();
    let authenticate = axum::middleware::from_fn_with_state(entrance, auth::authenticate);
    let operations = operations
        .layer(axum::middleware::from_fn(audit::act))
        .layer(axum::Extension(Arc::new(settings.console.clone())))
        .layer(axum::Extension(Arc::clone(&namespace.access)));
    let observation =
        observation.layer(authenticate).layer(axum::Extension(Arc::clone(&reception)));
    let uploads = uploads
        .layer(axum::middleware::from_fn(audit::act))
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&reception),
            middleware::receive_upload,
        ));
    let mut limited = Router::new()
        .nest("/api/v1", business.clone())
        // Without a route of its own it would be taken for an event of the type `import`.
        .route("/api/v1/events/import", any(middleware::no_such_route))
        .merge(business)
        .merge(operations)
        .fallback(middleware::no_such_route)
        .method_not_allowed_fallback(middleware::method_not_allowed);
    if destination.is_some() {
        let turnstile = app.services().turnstile.clone();
        let take_turn = axum::middleware::from_fn_with_state(turnstile, middleware::take_turn);
        limited = limited.layer(take_turn);
    }
    let mut limited = limited
        .layer((
            TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, timeout),
            axum::middleware::from_fn_with_state(reception, middleware::receive),
            // A body is read whole before, up to a limit of its own.
            DefaultBodyLimit::disable(),
        ))
        .merge(uploads);
    let mut health = observation.merge(open);
    if let Some(destination) = destination {
        let dispatch = axum::middleware::from_fn_with_state(destination, dispatch);
        limited = limited.layer(dispatch.clone());
        health = health.layer(dispatch);
    }
    limited
        .merge(health.method_not_allowed_fallback(middleware::method_not_allowed))
        .route(openapi::PATH, document)
        .merge(pages)
        .layer((
            axum::middleware::from_fn(prefix::follow),
            axum::middleware::from_fn_with_state(AccessLog::of(namespace), access_log::observe),
            CatchPanicLayer::custom(middleware::panicked),
        ))
        .with_state(Arc::clone(app))
}

/// The API for the host's own listener: only under the names of the first namespace's settings.
pub fn under_names(router: Router, first: &ServedNamespace) -> Router {
    let names = browsers::ServedNames::of(&first.settings, first.access.is_enforced());
    browsers::serve_names(router, names)
}

/// The same, to be nested below a prefix of another router.
pub fn mounted(router: Router) -> Router {
    prefix::mounted(router)
}

/// Requests that were received whole, until their answer was sent.
pub type RequestsInProgress = TaskTracker;
