//! What surrounds the handlers: a bound on concurrent requests, and problem documents for errors
//! that no handler makes (unknown routes and methods, panics, refusals of the layers below).

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span};

use super::RequestsInProgress;
use super::prefix::original_path;
use super::problem::{Answer, Kind, Problem};
use super::request::{Payload, content_encoding, content_type};
use crate::domain::body;
use crate::domain::cloud_events::is_json;
use crate::domain::steps::STEPS;
use crate::pipeline::turns::Turnstile;

/// Admits a request while a slot is free; otherwise 503, never a queue.
pub(super) async fn admit(
    State(slots): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let Ok(_slot) = slots.try_acquire() else {
        return Err(Problem::unavailable(
            "too many concurrent requests (`http.concurrency_max`), retry",
        ));
    };
    let step = if request.method().is_safe() {
        Span::none()
    } else {
        tracing::trace_span!(target: STEPS, "request")
    };
    Ok(next.run(request).instrument(step).await)
}

/// Reads the body before a handler can refuse the request: a client that is still sending may not
/// receive an answer. A compressed body is decompressed, up to as many bytes.
pub(super) async fn read_body(
    State(max_bytes): State<usize>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let (mut parts, body) = request.into_parts();
    // Only the body is read: the headers need no copy.
    let mut reading = Request::new(body);
    DefaultBodyLimit::max(max_bytes).apply(&mut reading);
    let Payload(bytes) = Payload::from_request(reading, &()).await?;
    let encoding = content_encoding(&parts.headers)?;
    let bytes = body::decoded(&encoding, bytes, max_bytes)?;
    if !encoding.is_empty() {
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(next.run(Request::from_parts(parts, bytes.into())).await)
}

/// Lets a request that writes wait for the turn of its namespace.
pub(super) async fn take_turn(
    State(turnstile): State<Turnstile>,
    request: Request,
    next: Next,
) -> Response {
    let writes = !request.method().is_safe();
    let _turn = if writes { turnstile.request().await } else { None };
    next.run(request).await
}

/// Counts a request that was received as work in progress, until its answer was sent.
pub(super) async fn track(
    State(work): State<RequestsInProgress>,
    request: Request,
    next: Next,
) -> Response {
    let token = work.token();
    let answer = next.run(request).await;
    answer.map(|body| Body::new(TrackedBody { body, _token: token }))
}

/// The body of an answer, which is in progress until it was sent.
struct TrackedBody {
    body: Body,
    _token: TaskTrackerToken,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    Problem::internal().into_response()
}

pub(super) async fn no_such_route(request: Request) -> Problem {
    Problem::not_found(format!("no route {}", original_path(&request)))
}

pub(super) async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not accept {}", original_path(&request), request.method());
    Problem::new(Kind::METHOD_NOT_ALLOWED, detail)
}

/// Replaces errors that the layers below made without a JSON body by problem documents.
pub(super) async fn to_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let has_document = content_type(response.headers()).is_some_and(is_json);
    match response.status() {
        status if has_document || !(status.is_client_error() || status.is_server_error()) => {
            response
        }
        // The timeout layer's answer.
        StatusCode::SERVICE_UNAVAILABLE => {
            Problem::unavailable("the request timed out").into_response()
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large().into_response(),
        status => Problem::of(status).into_response(),
    }
}
