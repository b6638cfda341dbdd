//! The HTTP API: one route table, one handler per file, every error a problem document (RFC 9457).
//!
//! Bounds: size of a body, time of a request, requests under way at once (beyond that: 503, never a queue).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::app::App;
use crate::config::HttpSettings;

mod caller;
mod cancel;
mod dead_letters;
mod events;
mod headers;
mod health;
mod json;
mod limits;
mod metrics;
mod orders;
mod plugins;
mod problem;
mod products;
mod recordings;
mod stages;
mod streams;

/// What handlers share.
type Shared = Arc<App>;

/// Every route of the API.
pub fn router(app: Arc<App>, settings: &HttpSettings) -> Router {
    let business = Router::new()
        .route("/orders", post(orders::create).get(orders::list))
        .route("/orders/{id}", get(orders::show))
        .route("/orders/{id}/events", get(orders::events))
        .route("/orders/{id}/cancel", post(cancel::cancel))
        .route("/events", post(events::ingest).get(events::list))
        .route("/events/export", get(events::export))
        .route("/events/{name}", post(events::send).get(events::show))
        .route("/products", post(products::stock).get(products::list))
        .route("/products/{sku}", get(products::show));
    let operation = Router::new()
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/groups", get(dead_letters::groups))
        .route("/dead-letters/replay", post(dead_letters::replay_many))
        .route("/dead-letters/discard", post(dead_letters::discard_many))
        .route("/dead-letters/jobs", get(dead_letters::list_jobs))
        .route("/dead-letters/jobs/{id}", get(dead_letters::show_job).delete(dead_letters::cancel_job))
        .route("/dead-letters/{id}", get(dead_letters::show))
        .route("/dead-letters/{id}/replay", post(dead_letters::replay))
        .route("/dead-letters/{id}/discard", post(dead_letters::discard))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{stage}/history", get(plugins::history))
        .route("/plugins/{stage}/rollback", post(plugins::roll_back))
        .route("/stages", get(stages::list))
        .route("/stages/{stage}", delete(stages::forget))
        .route("/stages/{stage}/pause", post(stages::pause))
        .route("/stages/{stage}/drain", post(stages::drain))
        .route("/stages/{stage}/resume", post(stages::resume))
        .route("/stages/{stage}/recordings", get(recordings::list))
        .route("/topology", get(plugins::topology));
    let health = Router::new()
        .route("/health", get(health::live))
        .route("/health/db", get(health::store))
        .route("/health/queue", get(health::broker))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::show));

    let slots = Arc::new(Semaphore::new(settings.concurrency_max));
    let timeout = Duration::from_millis(settings.request_timeout_ms);
    let limited = Router::new()
        .nest("/api/v1", business.clone())
        .merge(business)
        .merge(operation)
        .layer(DefaultBodyLimit::max(settings.body_max_bytes))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, timeout))
        .layer(axum::middleware::from_fn_with_state(slots, limits::admit));
    limited
        .merge(health)
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::middleware::from_fn(problem::dress))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(app)
}

/// Serves until cancelled, then finishes what is under way.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { cancel.cancelled().await }).await
}
