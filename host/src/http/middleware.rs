//! What surrounds the handlers: a bound on concurrent requests, and problem documents for errors
//! that no handler makes (unknown routes and methods, panics, refusals of the layers below).

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

use super::answers;
use super::auth::Entrance;
use super::body_budget::BodyBudget;
use super::held_body::holding;
use super::prefix::original_path;
use super::problem::{Answer, Kind, Problem};
use super::rate_limits::RequestSender;
use super::request::{content_encoding, content_type};
use super::uploads::Upload;
use super::{OpenConnections, Peer, RequestsInProgress};
use crate::app::{Load, Refusal};
use crate::domain::body;
use crate::domain::cloud_events::is_json;
use crate::domain::steps::STEPS;
use crate::pipeline::turns::Turnstile;

/// How the requests to a namespace are received.
pub(super) struct Reception {
    pub(super) entrance: Entrance,
    /// Of the bytes of their bodies.
    pub(super) budget: BodyBudget,
    /// For those that were received whole.
    pub(super) slots: Semaphore,
    /// How many of these there are.
    pub(super) concurrency_max: usize,
    /// Of the bytes of their answers.
    pub(super) answers: answers::Budget,
    /// Those that were received, until their answer was sent.
    pub(super) work: RequestsInProgress,
    /// Those of the process; only its first namespace shows them.
    pub(super) connections: Option<Arc<OpenConnections>>,
}

/// Refuses a request of a connection that was accepted only for health checks. Then finds out who sends
/// the request and whether they sent too many, and reads the body before a handler can refuse the request: a
/// client that is still sending may not receive an answer. A compressed body is decompressed, up to as
/// many bytes; its bytes are counted until the request is answered. Then admits the request while a slot
/// is free, otherwise 503, never a queue; until its answer was sent it is work in progress, and a large
/// answer is counted. All this is one layer, because each layer costs every request
/// eight allocations.
pub(super) async fn receive(
    State(reception): State<Arc<Reception>>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let (request, sender) = reception.admit(request).await?;
    let budget = &reception.budget;
    let in_progress = sender.begin();
    let (mut parts, body) = request.into_parts();
    let mut held = budget.request(sender);
    let sent = held.read(body).await?;
    let Ok(_slot) = reception.slots.try_acquire() else {
        return Err(reception.refused(
            Refusal::Concurrency,
            "too many concurrent requests (`http.concurrency_max`), retry",
        ));
    };
    let work = reception.work.token();
    let (encoding, sent_bytes) = (content_encoding(&parts.headers)?, sent.len());
    let bytes = body::decoded(&encoding, sent, budget.body_max_bytes())?;
    held.hold_parsed(&bytes, sent_bytes)?;
    if !encoding.is_empty() {
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let step = if parts.method.is_safe() {
        Span::none()
    } else {
        tracing::trace_span!(target: STEPS, "request")
    };
    let answer = next.run(Request::from_parts(parts, bytes.into())).instrument(step).await;
    Ok(holding(reception.bound(answer)?, (work, in_progress)))
}

/// The same for a component, which its handler reads: its size and its time have limits of their own,
/// and it takes no slot.
pub(super) async fn receive_upload(
    State(reception): State<Arc<Reception>>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let (request, sender) = reception.admit(request).await?;
    let (work, in_progress) = (reception.work.token(), sender.begin());
    let (mut parts, body) = request.into_parts();
    let upload = Upload::new(body);
    parts.extensions.insert(upload.clone());
    let answer = next.run(Request::from_parts(parts, Body::empty())).await;
    upload.drain().await;
    Ok(holding(reception.bound(answer)?, (work, in_progress)))
}

impl Reception {
    /// Refuses a request of a connection that was accepted only for health checks, then one without
    /// valid credentials, or one too many of its address or its principal.
    async fn admit(&self, request: Request) -> Answer<(Request, RequestSender)> {
        let peer = request.extensions().get::<Arc<Peer>>();
        if peer.is_some_and(|peer| peer.only_health) {
            return Err(self.refused(
                Refusal::Connections,
                "too many connections (`http.connections_max`, and the limit on open files), retry",
            ));
        }
        let address = self.entrance.admit_address(&request)?;
        let request = self.entrance.identified(request).await?;
        let sender = self.entrance.admit_principal(&request, address)?;
        Ok((request, sender))
    }

    /// The answer, if it is small or the bytes of large ones are free.
    fn bound(&self, answer: Response) -> Answer<Response> {
        self.answers.bound(answer).ok_or_else(|| {
            self.refused(Refusal::Answers, "too many large answers wait for their readers, retry")
        })
    }

    /// How many requests are in progress, without those whose answer is being sent.
    pub(super) fn load(&self) -> Load {
        let max = self.concurrency_max;
        Load { used: max.saturating_sub(self.slots.available_permits()) as u64, max: max as u64 }
    }

    fn refused(&self, refusal: Refusal, detail: &str) -> Problem {
        self.entrance.app.refusals().count(refusal);
        Problem::unavailable(detail)
    }
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
