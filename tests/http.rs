//! The HTTP API as its callers see it.

mod documented_requests;
mod events;
mod observability;
mod openapi;
mod orders;
mod streams;
