//! The HTTP API as its clients see it.

mod audit;
mod documented_requests;
mod bodies;
mod configuration;
mod console;
mod cors;
mod events;
mod framing;
mod json;
mod metrics;
mod observability;
mod openapi;
mod orders;
mod rate_limits;
mod streams;
mod traces;
