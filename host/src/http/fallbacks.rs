//! Problem documents for what no handler answers: unknown routes and methods, panics, and what the
//! layers below refuse.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::headers::content_type;
use super::problem::{Kind, Problem};
use crate::domain::cloud_events::is_json;

pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response<Body> {
    Problem::internal().into_response()
}

pub(super) async fn no_such_route(request: Request) -> Problem {
    Problem::not_found(format!("no route {}", request.uri().path()))
}

pub(super) async fn method_not_allowed(request: Request) -> Problem {
    Problem::new(
        Kind::Method,
        format!("{} does not take {}", request.uri().path(), request.method()),
    )
}

/// Errors that the layers below made without a body get one.
pub(super) async fn to_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let dressed = content_type(response.headers()).is_some_and(is_json);
    match response.status() {
        status if dressed || !(status.is_client_error() || status.is_server_error()) => response,
        StatusCode::SERVICE_UNAVAILABLE => {
            Problem::unavailable("the request took too long").into_response()
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large().into_response(),
        status => Problem::of(status).into_response(),
    }
}
