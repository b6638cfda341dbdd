//! Cross-origin requests (CORS): what a browser lets pages of other origins do. Off unless the
//! operator allows origins; then every route is open to them, live streams included.
//!
//! It protects users of browsers, not the API: other clients ignore it. Credentials are never
//! allowed.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::CorsSettings;

/// How long a browser may remember the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_mins(10);
/// Headers of answers that scripts may read.
const EXPOSED: [HeaderName; 4] =
    [header::LOCATION, header::RETRY_AFTER, header::ACCEPT_ENCODING, header::CONTENT_DISPOSITION];

/// Answers preflight requests of the allowed origins, and marks the answers that they may read; none
/// if no origin is allowed.
pub(super) fn layer(settings: &CorsSettings) -> Option<CorsLayer> {
    let origins = &settings.allowed_origins;
    if origins.is_empty() {
        return None;
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        // An origin that is no header value was refused with the configuration.
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // `ce-…` headers have any name.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Some(layer)
}
