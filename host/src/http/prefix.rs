//! The prefix below which the embedding program serves the API, and what follows it: `Location`
//! headers, the types of problems, and the OpenAPI document.
//!
//! It is what the program's router removed from the request's path, so it needs no setting and
//! cannot disagree with the router. Handlers write paths as if there were none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, OriginalUri, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::any_service;

use super::Peer;
use super::problem::Problem;

/// The prefix of a request, such as `/pipeline`; empty at the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prefix(String);

impl Prefix {
    /// What was removed from `original` to get `path`.
    fn removed(original: &str, path: &str) -> Self {
        let prefix = match original.strip_suffix(path) {
            Some(prefix) => prefix,
            // A router removes `/pipeline` from `/pipeline` and keeps `/`.
            None if path == "/" => original,
            None => "",
        };
        Self(prefix.trim_end_matches('/').to_owned())
    }

    fn of(parts: &Parts) -> Self {
        let original = parts.extensions.get::<OriginalUri>();
        original.map_or_else(Self::default, |OriginalUri(original)| {
            Self::removed(original.path(), parts.uri.path())
        })
    }

    /// Below which paths are; none at the root.
    pub(super) fn path(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&*self.0)
    }

    /// A path of the API, as its client sees it.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for Prefix {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// The API as routes of another router. What that router found in the path, such as the parameters
/// of a prefix, is its own: handlers do not see it.
pub(super) fn mounted(api: Router) -> Router {
    // Routes, and not only a fallback: a layer for the routes of the other router covers them.
    let all = any_service(api.clone());
    let routes = Router::new().route("/", all.clone()).route("/{*path}", all);
    routes.fallback_service(api).layer(axum::middleware::from_fn(isolate))
}

async fn isolate(mut request: Request, next: Next) -> Response {
    let extensions = std::mem::take(request.extensions_mut());
    if let Some(original) = extensions.get::<OriginalUri>() {
        request.extensions_mut().insert(original.clone());
    }
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        let (address, encrypted, only_health) = (*address, false, false);
        let peer = Peer { address, certificate: None, encrypted, only_health };
        request.extensions_mut().insert(Arc::new(peer));
    }
    next.run(request).await
}

/// The path that the client sent.
pub(super) fn original_path(request: &Request) -> &str {
    original_uri(request).path()
}

/// What the client sent, with its query.
pub(super) fn original_uri(request: &Request) -> &Uri {
    let original = request.extensions().get::<OriginalUri>().map(|OriginalUri(uri)| uri);
    original.unwrap_or(request.uri())
}

/// Tells handlers the prefix, and lets what they answer follow it.
pub(super) async fn follow(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let prefix = Prefix::of(&parts);
    parts.extensions.insert(prefix.clone());
    let response = next.run(Request::from_parts(parts, body)).await;
    if prefix.path().is_none() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    if let Some(location) = parts.headers.get_mut(header::LOCATION)
        && let Some(followed) = followed(&prefix, location)
    {
        *location = followed;
    }
    let Some(problem) = parts.extensions.remove::<Problem>() else {
        return Response::from_parts(parts, body);
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let problem = problem.below(&prefix);
    let document = serde_json::to_vec(&problem).expect("a problem consists of plain values");
    Response::from_parts(parts, Body::from(document))
}

/// The location below the prefix; none for one that is no path of the API.
fn followed(prefix: &Prefix, location: &HeaderValue) -> Option<HeaderValue> {
    let location = location.to_str().ok()?;
    let is_path = location.starts_with('/') && location.parse::<Uri>().is_ok();
    if !is_path {
        return None;
    }
    HeaderValue::try_from(prefix.join(location)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_what_the_router_removed() {
        for (original, path, expected) in [
            ("/orders/1", "/orders/1", ""),
            ("/", "/", ""),
            ("/pipeline/orders/1", "/orders/1", "/pipeline"),
            ("/pipeline", "/", "/pipeline"),
            ("/pipeline/", "/", "/pipeline"),
            ("/tenants/7/pipeline/orders", "/orders", "/tenants/7/pipeline"),
            ("/elsewhere", "/rewritten", ""),
        ] {
            assert_eq!(Prefix::removed(original, path).0, expected, "{original} {path}");
        }
    }

    #[test]
    fn only_paths_of_the_api_follow_the_prefix() {
        let prefix = Prefix("/pipeline".to_owned());
        let follow = |location: &'static str| {
            followed(&prefix, &HeaderValue::from_static(location))
                .map(|location| location.to_str().unwrap().to_owned())
        };
        assert_eq!(follow("/orders/1?a=b").as_deref(), Some("/pipeline/orders/1?a=b"));
        assert_eq!(follow("https://example.com/orders/1"), None);
    }
}
