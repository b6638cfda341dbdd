//! Where a request stands in its caller's trace.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::domain::trace_context::Trace;

/// The trace that a request belongs to; every request has one.
pub(super) struct Caller(pub(super) Trace);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Trace::enter(|name| parts.headers.get(name)?.to_str().ok())))
    }
}
