//! Passes the requests of a connection to the router, and notes what each waits for.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::activity::{Activity, BodyActivity, RequestActivity};
use crate::http::Peer;

/// Largest part of an answer that is handed over to be sent: overlapping answers take turns, a client
/// that takes nothing is noticed, and what remains of an answer is still counted.
pub(super) const PART_MAX_BYTES: usize = 64 << 10;

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Requests {
    router: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    peer: Arc<Peer>,
}

impl Requests {
    pub(super) fn new(router: Router, activity: Arc<Activity>, peer: Peer) -> Self {
        let router = TowerToHyperService::new(router);
        Self { router, activity, peer: Arc::new(peer) }
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<SentBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let activity = self.activity.begin_request();
        let mut request = request.map(|body| {
            let receiving = (!body.is_end_stream()).then(|| self.activity.begin_body());
            ReceivedBody { body, receiving }
        });
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let answering = self.router.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            Ok(answer.map(|body| SentBody { body, rest: Bytes::new(), activity }))
        })
    }
}

/// The body of a request.
struct ReceivedBody {
    body: Incoming,
    /// None when it was received whole.
    receiving: Option<BodyActivity>,
}

impl HttpBody for ReceivedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if frame.is_none() || this.body.is_end_stream() {
            this.receiving = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) struct SentBody {
    body: Body,
    /// What remains of a part that is too large.
    rest: Bytes,
    activity: RequestActivity,
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        this.activity.part_taken();
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        this.activity.part_waits();
        let part = this.rest.split_to(PART_MAX_BYTES.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
