//! [`TraceContext`] as an extractor: the span of the request.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::domain::spans::Spans;
use crate::domain::trace_context::TraceContext;
use crate::http::access_log::ObservedRequest;

impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let observed = parts.extensions.get::<Arc<ObservedRequest>>();
        Ok(observed
            .map_or_else(|| Spans::default().begin(), |observed| observed.entered.context.clone()))
    }
}
