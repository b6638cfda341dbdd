//! The HTTP API: one route table, one handler per file, every error a problem document (RFC 9457).
//!
//! Bounds: size of a body, time of a request, requests under way at once (beyond that: 503, never a
//! queue).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;
use crate::config::HttpSettings;

mod trace_context;
mod cancel;
mod dead_letters;
mod events;
mod fallbacks;
mod fields;
mod headers;
mod health;
mod json;
mod limits;
mod lists;
mod metrics;
mod openapi;
mod orders;
mod paths;
mod plugins;
mod problem;
mod problems;
mod products;
mod recordings;
mod stages;
mod streams;

/// What handlers share.
type Shared = Arc<App>;

/// Every route, by what it serves.
struct Routes {
    /// Orders, events and products; under `/api/v1` as well.
    business: Router<Shared>,
    operation: Router<Shared>,
    /// Never turned away.
    health: Router<Shared>,
    document: Value,
}

fn routes() -> Routes {
    let (business, mut document) = OpenApiRouter::default()
        .routes(routes!(orders::create, orders::list))
        .routes(routes!(orders::show))
        .routes(routes!(orders::events))
        .routes(routes!(cancel::cancel))
        .routes(routes!(events::ingest, events::list))
        .routes(routes!(events::export))
        .routes(routes!(events::send, events::show))
        .routes(routes!(products::stock, products::list))
        .routes(routes!(products::show))
        .split_for_parts();
    let (operation, more) = OpenApiRouter::default()
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::groups))
        .routes(routes!(dead_letters::replay_many))
        .routes(routes!(dead_letters::discard_many))
        .routes(routes!(dead_letters::list_jobs))
        .routes(routes!(dead_letters::show_job))
        .routes(routes!(dead_letters::cancel_job))
        .routes(routes!(dead_letters::show))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::history))
        .routes(routes!(plugins::roll_back))
        .routes(routes!(plugins::topology))
        .routes(routes!(stages::list))
        .routes(routes!(stages::delete))
        .routes(routes!(stages::pause))
        .routes(routes!(stages::drain))
        .routes(routes!(stages::resume))
        .routes(routes!(recordings::list))
        .split_for_parts();
    document.merge(more);
    let (health, more) = OpenApiRouter::default()
        .routes(routes!(health::live))
        .routes(routes!(health::store))
        .routes(routes!(health::broker))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::show))
        .routes(routes!(problems::list))
        .routes(routes!(problems::show))
        .split_for_parts();
    document.merge(more);
    Routes { business, operation, health, document: openapi::complete(document) }
}

/// The OpenAPI 3.1 document of the API.
pub fn document() -> Value {
    routes().document
}

/// Every route of the API.
pub fn router(app: Arc<App>, settings: &HttpSettings) -> Router {
    let Routes { business, operation, health, document } = routes();
    let pages =
        SwaggerUi::new(openapi::PAGE_PLACE).external_url_unchecked(openapi::PLACE, document);
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
        .merge(pages)
        .fallback(fallbacks::no_such_route)
        .method_not_allowed_fallback(fallbacks::method_not_allowed)
        .layer(axum::middleware::from_fn(fallbacks::to_problem))
        .layer(CatchPanicLayer::custom(fallbacks::panicked))
        .with_state(app)
}

/// Serves until cancelled, then finishes what is under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { cancel.cancelled().await })
        .await
}
