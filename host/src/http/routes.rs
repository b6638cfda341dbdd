//! The route table: every path, method and handler of the API, with what a request needs. A handler's
//! path and method are in its `#[utoipa::path]`; the comments here repeat them.
//!
//! Beside these, [`super::router`] serves `GET /openapi.json`, `GET /docs` and `/namespaces`. A name that is a route
//! of its own, such as `/events/import`, is never taken for an id or a type.

use axum::Router;
use axum::routing::get;
use serde_json::Value;
use utoipa_axum::routes;

use super::auth::{Need, On};
use super::table::Table;
use super::{
    Shared, audit, chains, config, console, dead_letters, encryption, events, health, hosts, keys,
    limits, message_keys, metrics, namespaces, openapi, plugins, problem, products, session,
    stages, subjects,
};
use crate::domain::access::Permission::{Admin, Operate, Payloads, Read, Submit};
use crate::domain::event::PRODUCT_STOCKED;
use crate::domain::subject_kind::SubjectKinds;

/// Every route, grouped by how it is served.
pub(super) struct Routes {
    /// Subjects, events and products: also served under `/api/v1`.
    pub(super) business: Router<Shared>,
    /// Imports, dead letters, the audit log, the configuration, chains of events, encryption, stages, plugins, keys and sessions.
    pub(super) operations: Router<Shared>,
    /// Comparisons of components: their bodies and their time have limits of their own.
    pub(super) uploads: Router<Shared>,
    /// Metrics, and what is used of the limits: exempt from all of them but the rate of an address.
    pub(super) observation: Router<Shared>,
    /// Health, problem types and the files of the console: exempt from the limits on requests, and open to
    /// everyone.
    pub(super) open: Router<Shared>,
    /// The OpenAPI document.
    pub(super) document: Value,
}

/// See everything.
pub(super) const READ: Need = Need::any_of(&[Read], On::Everything);
/// See a stage.
const READ_STAGE: Need = Need::any_of(&[Read], On::Stage);
/// See some stage: the handler shows only what the caller may see.
const READ_SOME: Need = Need::any_of(&[Read], On::SomeScope);
/// See what can be submitted.
const READ_KINDS: Need = Need::any_of(&[Read, Submit], On::SomeScope);
/// Change a stage.
const OPERATE: Need = Need::any_of(&[Operate], On::Stage);
/// Change everything.
const OPERATE_ALL: Need = Need::any_of(&[Operate], On::Everything);
/// Change what belongs to a stage that only the handler finds out.
const OPERATE_SOME: Need = Need::any_of(&[Operate], On::SomeScope);
/// Submit events whose types only the handler finds out.
const SUBMIT_SOME: Need = Need::any_of(&[Submit], On::SomeScope);
const SUBMIT_TYPE: Need = Need::any_of(&[Submit], On::EventType);
const SUBMIT_STOCK: Need = Need::any_of(&[Submit], On::Type(PRODUCT_STOCKED));
const ADMIN: Need = Need::any_of(&[Admin], On::Everything);

/// The same for the routes of each kind, in the order of [`subjects::handlers`]: who submits sees what
/// was submitted.
#[rustfmt::skip]
const OF_KIND: [Need; 5] = [
    Need::any_of(&[Submit], On::FirstEvent),          // POST <path>
    Need::any_of(&[Read, Submit], On::FirstEvent),    // GET  <path>
    Need::any_of(&[Read, Submit], On::FirstEvent),    // GET  <path>/{id}
    Need::any_of(&[Read, Submit], On::FirstEvent),    // GET  <path>/{id}/events
    Need::any_of(&[Submit, Operate], On::FirstEvent), // POST <path>/{id}/cancel
];

/// Builds the route table of a host with these kinds of subjects. `enforced`: requests need what the
/// table says.
#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "it is a table")]
pub(super) fn routes(kinds: &SubjectKinds, enforced: bool) -> Routes {
    let (mut business, mut document) = Table::new(enforced)
        .route(READ_KINDS,   routes!(subjects::kinds))                // GET    /subjects
        .route(SUBMIT_SOME,  routes!(events::ingest))                 // POST   /events
        .route(READ,         routes!(events::list))                   // GET    /events
        .route(READ.and(Payloads), routes!(events::export))           // GET    /events/export
        .route(SUBMIT_TYPE,  routes!(events::send))                   // POST   /events/{name}
        .route(READ,         routes!(events::show))                   // GET    /events/{name}
        .route(SUBMIT_STOCK, routes!(products::stock))                // POST   /products
        .route(READ,         routes!(products::list))                 // GET    /products
        .route(READ,         routes!(products::show))                 // GET    /products/{sku}
        .split();
    let (operations, more) = Table::new(enforced)
        .route(ADMIN,        routes!(events::import))                 // POST   /events/import
        .route(READ_STAGE,   routes!(dead_letters::list))             // GET    /dead-letters
        .route(READ_STAGE,   routes!(dead_letters::groups))           // GET    /dead-letters/groups
        .route(OPERATE_SOME, routes!(dead_letters::replay_many))      // POST   /dead-letters/replay
        .route(OPERATE_SOME, routes!(dead_letters::discard_many))     // POST   /dead-letters/discard
        .route(READ_SOME,    routes!(dead_letters::list_jobs))        // GET    /dead-letters/jobs
        .route(READ_SOME,    routes!(dead_letters::show_job))         // GET    /dead-letters/jobs/{id}
        .route(OPERATE_SOME, routes!(dead_letters::cancel_job))       // POST   /dead-letters/jobs/{id}/cancel
        .route(READ_SOME,    routes!(dead_letters::show))             // GET    /dead-letters/{id}
        .route(OPERATE_SOME, routes!(dead_letters::replay))           // POST   /dead-letters/{id}/replay
        .route(OPERATE_SOME, routes!(dead_letters::discard))          // POST   /dead-letters/{id}/discard
        .route(ADMIN,        routes!(audit::list))                    // GET    /audit
        .route(ADMIN,        routes!(config::show))                   // GET    /config
        .route(READ,         routes!(chains::list))                   // GET    /chains
        .route(OPERATE_ALL,  routes!(chains::stop))                   // POST   /chains/{correlation}/stop
        .route(OPERATE_ALL,  routes!(chains::resume))                 // POST   /chains/{correlation}/resume
        .route(ADMIN,        routes!(message_keys::list))             // GET    /broker/keys
        .route(ADMIN,        routes!(message_keys::rotate))           // POST   /broker/keys
        .route(ADMIN,        routes!(message_keys::remove))           // DELETE /broker/keys/{key}
        .route(ADMIN,        routes!(encryption::show))               // GET    /encryption
        .route(ADMIN,        routes!(encryption::rewrap))             // POST   /encryption/rewrap
        .route(ADMIN,        routes!(encryption::erase))              // POST   /encryption/erase
        .route(READ,         routes!(hosts::list))                    // GET    /hosts
        .route(READ_SOME,    routes!(stages::list))                   // GET    /stages
        .route(OPERATE,      routes!(stages::delete))                 // DELETE /stages/{stage}
        .route(OPERATE,      routes!(stages::pause))                  // POST   /stages/{stage}/pause
        .route(OPERATE,      routes!(stages::drain))                  // POST   /stages/{stage}/drain
        .route(OPERATE,      routes!(stages::resume))                 // POST   /stages/{stage}/resume
        .route(OPERATE,      routes!(stages::close_breaker))          // POST   /stages/{stage}/breaker/close
        .route(OPERATE,      routes!(stages::set_log_level))          // POST   /stages/{stage}/log-level
        .route(READ_STAGE.and(Payloads), routes!(stages::recordings)) // GET    /stages/{stage}/recordings
        .route(READ_SOME,    routes!(plugins::list))                  // GET    /plugins
        .route(READ_STAGE,   routes!(plugins::history))               // GET    /plugins/{stage}/history
        .route(OPERATE,      routes!(plugins::roll_back))             // POST   /plugins/{stage}/rollback
        .route(READ,         routes!(plugins::topology))              // GET    /topology
        .route(ADMIN,        routes!(keys::list))                     // GET    /keys
        .route(ADMIN,        routes!(keys::create))                   // POST   /keys
        .route(ADMIN,        routes!(keys::rotate))                   // POST   /keys/{id}/rotate
        .route(ADMIN,        routes!(keys::revoke))                   // DELETE /keys/{id}
        .route(Need::PRINCIPAL, routes!(session::show))               // GET    /session
        .route(Need::PRINCIPAL, routes!(session::begin))              // POST   /session
        .route(Need::PRINCIPAL, routes!(session::end))                // DELETE /session
        .split();
    document.merge(more);
    let (uploads, more) = Table::new(enforced)
        .route(OPERATE.and(Payloads), routes!(stages::compare))       // POST   /stages/{stage}/compare
        .split();
    document.merge(more);
    let (observation, more) = Table::new(enforced)
        .route(READ,         routes!(metrics::metrics))               // GET    /metrics
        .route(OPERATE_ALL,  routes!(limits::show))                   // GET    /limits
        .split();
    document.merge(more);
    let (open, more) = Table::new(enforced)
        .open(routes!(health::live))                                  // GET    /health
        .open(routes!(health::store))                                 // GET    /health/db
        .open(routes!(health::broker))                                // GET    /health/queue
        .open(routes!(health::ready))                                 // GET    /ready
        .open(routes!(problem::routes::list))                         // GET    /problems
        .open(routes!(problem::routes::show))                         // GET    /problems/{name}
        .open_pages(console::PATH, get(console::enter))               // GET    /console
        .open_pages("/console/", get(console::file))
        .open_pages("/console/{*path}", get(console::file))           // GET    /console/…
        .split();
    document.merge(more);
    document.merge(namespaces::table(enforced).split().1);            // GET    /namespaces
    // Each kind: POST, GET <path>; GET <path>/{id}; GET <path>/{id}/events; POST <path>/{id}/cancel
    let mut template = Table::new(enforced);
    for (need, (_, handlers)) in OF_KIND.into_iter().zip(subjects::handlers()) {
        template = template.route(need, handlers);
    }
    document.merge(template.split().1);
    for kind in kinds.iter() {
        let mut of_kind = Router::new();
        for (need, (path, (_, _, handlers))) in OF_KIND.into_iter().zip(subjects::handlers()) {
            let handlers = if enforced { need.guard(handlers) } else { handlers };
            of_kind = of_kind.route(&format!("{}{path}", kind.path), handlers);
        }
        business = business.merge(of_kind.route_layer(subjects::of_kind(kind)));
    }
    Routes { business, operations, uploads, observation, open, document: openapi::complete(document, kinds) }
}
