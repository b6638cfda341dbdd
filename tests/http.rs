//! The HTTP API as its clients see it.

mod documented_requests;
mod bodies;
mod cors;
mod events;
mod json;
mod observability;
mod openapi;
mod orders;
mod streams;
