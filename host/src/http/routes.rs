//! The route table: every path, method and handler of the API. A handler's path and method are in
//! its `#[utoipa::path]`; the comments here repeat them.
//!
//! Beside these, [`super::router`] serves `GET /openapi.json`, `GET /docs` and `/namespaces`. A name that is a route
//! of its own, such as `/events/import`, is never taken for an id or a type.

use axum::Router;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Shared, chains, dead_letters, events, health, metrics, namespaces, openapi, plugins, problem,
    products, stages, subjects,
};
use crate::domain::subject_kind::SubjectKinds;

/// Every route, grouped by how it is served.
pub(super) struct Routes {
    /// Subjects, events and products: also served under `/api/v1`.
    pub(super) business: Router<Shared>,
    /// Imports, dead letters, chains of events, stages and plugins.
    pub(super) operations: Router<Shared>,
    /// Health, metrics and problem types: exempt from the limits on requests.
    pub(super) health: Router<Shared>,
    /// The OpenAPI document.
    pub(super) document: Value,
}

/// Builds the route table of a host with these kinds of subjects.
#[rustfmt::skip]
pub(super) fn routes(kinds: &SubjectKinds) -> Routes {
    let (mut business, mut document) = OpenApiRouter::default()
        .routes(routes!(subjects::kinds))                     // GET       /subjects
        .routes(routes!(events::ingest, events::list))        // POST, GET /events
        .routes(routes!(events::export))                      // GET       /events/export
        .routes(routes!(events::send, events::show))          // POST, GET /events/{name}
        .routes(routes!(products::stock, products::list))     // POST, GET /products
        .routes(routes!(products::show))                      // GET       /products/{sku}
        .split_for_parts();
    let (operations, more) = OpenApiRouter::default()
        .routes(routes!(events::import))                      // POST      /events/import
        .routes(routes!(dead_letters::list))                  // GET       /dead-letters
        .routes(routes!(dead_letters::groups))                // GET       /dead-letters/groups
        .routes(routes!(dead_letters::replay_many))           // POST      /dead-letters/replay
        .routes(routes!(dead_letters::discard_many))          // POST      /dead-letters/discard
        .routes(routes!(dead_letters::list_jobs))             // GET       /dead-letters/jobs
        .routes(routes!(dead_letters::show_job))              // GET       /dead-letters/jobs/{id}
        .routes(routes!(dead_letters::cancel_job))            // POST      /dead-letters/jobs/{id}/cancel
        .routes(routes!(dead_letters::show))                  // GET       /dead-letters/{id}
        .routes(routes!(dead_letters::replay))                // POST      /dead-letters/{id}/replay
        .routes(routes!(dead_letters::discard))               // POST      /dead-letters/{id}/discard
        .routes(routes!(chains::list))                        // GET       /chains
        .routes(routes!(chains::stop))                        // POST      /chains/{correlation}/stop
        .routes(routes!(chains::resume))                      // POST      /chains/{correlation}/resume
        .routes(routes!(stages::list))                        // GET       /stages
        .routes(routes!(stages::delete))                      // DELETE    /stages/{stage}
        .routes(routes!(stages::pause))                       // POST      /stages/{stage}/pause
        .routes(routes!(stages::drain))                       // POST      /stages/{stage}/drain
        .routes(routes!(stages::resume))                      // POST      /stages/{stage}/resume
        .routes(routes!(stages::close_breaker))               // POST      /stages/{stage}/breaker/close
        .routes(routes!(stages::recordings))                  // GET       /stages/{stage}/recordings
        .routes(routes!(plugins::list))                       // GET       /plugins
        .routes(routes!(plugins::history))                    // GET       /plugins/{stage}/history
        .routes(routes!(plugins::roll_back))                  // POST      /plugins/{stage}/rollback
        .routes(routes!(plugins::topology))                   // GET       /topology
        .split_for_parts();
    document.merge(more);
    let (health, more) = OpenApiRouter::default()
        .routes(routes!(health::live))                        // GET       /health
        .routes(routes!(health::store))                       // GET       /health/db
        .routes(routes!(health::broker))                      // GET       /health/queue
        .routes(routes!(health::ready))                       // GET       /ready
        .routes(routes!(metrics::metrics))                    // GET       /metrics
        .routes(routes!(problem::routes::list))               // GET       /problems
        .routes(routes!(problem::routes::show))               // GET       /problems/{name}
        .split_for_parts();
    document.merge(more);
    document.merge(namespaces::document());                   // GET       /namespaces
    // Each kind: POST, GET <path>; GET <path>/{id}; GET <path>/{id}/events; POST <path>/{id}/cancel
    for kind in kinds.iter() {
        business = business.merge(subjects::routes_of(kind));
    }
    document.merge(subjects::template());
    Routes { business, operations, health, document: openapi::complete(document, kinds) }
}
