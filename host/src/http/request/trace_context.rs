//! [`TraceContext`] as an extractor: it continues the trace in the W3C headers, or begins a new
//! one.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::domain::trace_context::TraceContext;

impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::enter(|name| parts.headers.get(name)?.to_str().ok()))
    }
}
