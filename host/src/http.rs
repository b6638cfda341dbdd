//! The HTTP API: the route table in `routes.rs`, one folder per resource, one handler per file,
//! and a problem document (RFC 9457) for every error.
//!
//! Bounds: size of a body, duration of a request, concurrent requests (beyond that: 503, never a
//! queue).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa_swagger_ui::SwaggerUi;

use self::routes::Routes;
use crate::app::App;
use crate::config::HttpSettings;
use crate::domain::subject_kind::SubjectKinds;

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
mod request;
mod pages;
mod problem;
mod middleware;
mod cors;
mod openapi;

/// What handlers share.
type Shared = Arc<App>;

/// The OpenAPI 3.1 document of the API of a host with these kinds of subjects.
pub fn document(kinds: &SubjectKinds) -> Value {
    routes::routes(kinds).document
}

/// The whole API: routes, limits, and problem documents for errors.
pub fn router(app: Arc<App>, settings: &HttpSettings, work: &RequestsInProgress) -> Router {
    let Routes { business, operations, health, document } = routes::routes(app.kinds());
    let pages = SwaggerUi::new(openapi::DOCS_PATH).external_url_unchecked(openapi::PATH, document);
    let slots = Arc::new(Semaphore::new(settings.concurrency_max));
    let timeout = Duration::from_millis(settings.request_timeout_ms);
    let limited = Router::new()
        .nest("/api/v1", business.clone())
        .merge(business)
        .merge(operations)
        .fallback(middleware::no_such_route)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(work.clone(), middleware::track))
        .layer(axum::middleware::from_fn_with_state(settings.body_max_bytes, middleware::read_body))
        .layer(DefaultBodyLimit::max(settings.body_max_bytes))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, timeout))
        .layer(axum::middleware::from_fn_with_state(slots, middleware::admit));
    let router = limited
        .merge(health.method_not_allowed_fallback(middleware::method_not_allowed))
        .merge(pages)
        .layer(axum::middleware::from_fn(middleware::to_problem))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .with_state(app);
    cors::allow(router, &settings.cors)
}

/// Requests that were received whole, until their answer was sent.
pub type RequestsInProgress = TaskTracker;

/// Time in which an answer that was made reaches its client when the host stops.
const LINGER: Duration = Duration::from_millis(200);

/// Serves the API on one listener, as often as it is run: connections that arrive between two runs
/// wait in the listener's backlog.
pub struct Server {
    listener: std::net::TcpListener,
    router: Router,
    work: RequestsInProgress,
}

impl Server {
    /// A server for a listener that is bound already.
    pub fn new(
        listener: TcpListener,
        router: Router,
        work: RequestsInProgress,
    ) -> io::Result<Self> {
        Ok(Self { listener: listener.into_std()?, router, work })
    }

    /// Serves until cancelled, then finishes the requests in progress. One that was not received
    /// whole is none.
    pub async fn run(&self, cancel: CancellationToken) {
        if let Err(error) = self.serve(cancel).await {
            tracing::error!(%error, "the HTTP server failed");
        }
    }

    async fn serve(&self, cancel: CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let stop = cancel.clone();
        let serving = axum::serve(listener, self.router.clone())
            .with_graceful_shutdown(async move { stop.cancelled().await });
        tokio::select! {
            ended = serving.into_future() => ended,
            () = self.finish(&cancel) => Ok(()),
        }
    }

    /// Waits until cancelled, then until no request is in progress.
    async fn finish(&self, cancel: &CancellationToken) {
        cancel.cancelled().await;
        self.work.close();
        loop {
            self.work.wait().await;
            tokio::time::sleep(LINGER).await;
            if self.work.is_empty() {
                return;
            }
        }
    }
}
