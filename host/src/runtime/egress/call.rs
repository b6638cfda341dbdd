//! One call: its slot, its connection, the exchange, and the bounds on both bodies.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{CallError, Egress, Phase, Target};

/// Largest head of a response.
const HEAD_MAX_BYTES: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a call may take; the operator's limit applies as well.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the whole call: the rest of the attempt.
    pub whole: Duration,
    /// Until the connection is established.
    pub connect: Option<Duration>,
    /// Until the head of the response has arrived.
    pub answer: Option<Duration>,
    /// Between two pieces of the response body.
    pub between: Option<Duration>,
}

/// Drives an exchange while its response is read.
pub type Driver = Pin<Box<dyn Future<Output = Result<(), CallError>> + Send>>;

impl Egress {
    /// Calls an admitted target. The driver must run while the response body is read.
    pub async fn send<B>(
        &self,
        target: &Target,
        request: Request<B>,
        patience: Patience,
    ) -> Result<(Response<Reply>, Driver), CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let answer = self.exchange(target, request, patience).await;
        self.count(&target.host, answer.is_ok());
        answer
    }

    async fn exchange<B>(
        &self,
        target: &Target,
        request: Request<B>,
        patience: Patience,
    ) -> Result<(Response<Reply>, Driver), CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let began = Instant::now();
        let end = began + self.timeout.min(patience.whole);
        let within =
            |limit: Option<Duration>| limit.map_or(end, |limit| end.min(Instant::now() + limit));
        let slot = self.turn(end).await?;
        let (wire, slot) = self.dialer.connect(target, slot, within(patience.connect)).await?;

        let too_large = Arc::new(AtomicBool::new(false));
        let request = self.bounded(target, request, &too_large)?;
        let explain = |error: hyper::Error| {
            if too_large.load(Ordering::Relaxed) {
                CallError::RequestTooLarge(self.body_max_bytes)
            } else {
                CallError::Http(error)
            }
        };
        let shaken =
            http1::Builder::new().max_buf_size(HEAD_MAX_BYTES).handshake(TokioIo::new(wire)).await;
        let (mut sender, connection) = shaken.map_err(explain)?;
        let mut connection = Box::pin(connection);
        let mut ended = false;
        let exchange = async {
            let mut answer = pin!(sender.send_request(request));
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer,
                    // The response reports the same error.
                    _ = &mut connection, if !ended => ended = true,
                }
            }
        };
        let answer = timeout_at(within(patience.answer), exchange)
            .await
            .map_err(|_| CallError::TimedOut(Phase::Answer))?
            .map_err(explain)?;
        let announced = answer.body().size_hint().lower();
        if announced > self.body_max_bytes as u64 {
            return Err(CallError::AnswerTooLarge(self.body_max_bytes));
        }
        let reply =
            |incoming| Reply::new(incoming, self.body_max_bytes, end, patience.between, slot);
        let driver =
            async move { if ended { Ok(()) } else { connection.await.map_err(CallError::Http) } };
        Ok((answer.map(reply), Box::pin(driver)))
    }

    /// Waits for a slot and for the rate limit.
    async fn turn(&self, by: Instant) -> Result<OwnedSemaphorePermit, CallError> {
        let slot = timeout_at(by, Semaphore::acquire_owned(Arc::clone(&self.slots))).await;
        // The semaphore is never closed.
        let slot = slot.ok().and_then(Result::ok).ok_or(CallError::Busy("http_concurrency"))?;
        if let Some(rate) = &self.rate {
            timeout_at(by, rate.until_ready())
                .await
                .map_err(|_| CallError::Busy("http_rate_per_s"))?;
        }
        Ok(slot)
    }

    /// The request to send: path only, the host's own `Host` header, a bounded body.
    fn bounded<B>(
        &self,
        target: &Target,
        request: Request<B>,
        too_large: &Arc<AtomicBool>,
    ) -> Result<Request<Upload<B>>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let path =
            parts.uri.path_and_query().filter(|path| path.as_str().starts_with('/')).cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let host = HeaderValue::try_from(target.authority())
            .map_err(|_| CallError::Address("its host is no header"))?;
        parts.headers.insert(HOST, host);
        if body.size_hint().lower() > self.body_max_bytes as u64 {
            return Err(CallError::RequestTooLarge(self.body_max_bytes));
        }
        let body = Upload {
            inner: Box::pin(body),
            left: self.body_max_bytes,
            too_large: Arc::clone(too_large),
        };
        Ok(Request::from_parts(parts, body))
    }
}

/// A request body that fails once it exceeds its limit.
struct Upload<B> {
    inner: Pin<Box<B>>,
    left: usize,
    too_large: Arc<AtomicBool>,
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if take(&mut self.left, &frame) {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.too_large.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("the body is larger than granted".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body that fails once it exceeds its limit or takes too long. It holds the slot of its
/// call.
pub struct Reply {
    incoming: Option<Incoming>,
    left: usize,
    max: usize,
    end: Pin<Box<Sleep>>,
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
    _slot: OwnedSemaphorePermit,
}

impl Reply {
    fn new(
        incoming: Incoming,
        max: usize,
        end: Instant,
        between: Option<Duration>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let pause =
            between.map(|between| (between, Box::pin(sleep_until(Instant::now() + between))));
        Self {
            incoming: Some(incoming),
            left: max,
            max,
            end: Box::pin(sleep_until(end)),
            pause,
            _slot: slot,
        }
    }

    fn fail(&mut self, error: CallError) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        self.incoming = None;
        Poll::Ready(Some(Err(error)))
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let paused =
            self.pause.as_mut().is_some_and(|(_, pause)| pause.as_mut().poll(cx).is_ready());
        paused || self.end.as_mut().poll(cx).is_ready()
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let Some(incoming) = self.incoming.as_mut() else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => self.fail(CallError::Http(error)),
            Poll::Ready(Some(Ok(frame))) => {
                if !take(&mut self.left, &frame) {
                    let max = self.max;
                    return self.fail(CallError::AnswerTooLarge(max));
                }
                if let Some((between, pause)) = &mut self.pause {
                    pause.as_mut().reset(Instant::now() + *between);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending if self.is_late(cx) => self.fail(CallError::TimedOut(Phase::Body)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// Subtracts a frame from what is left; false if that is less.
fn take(left: &mut usize, frame: &Frame<Bytes>) -> bool {
    let size = frame.data_ref().map_or(0, Bytes::len);
    let fits = size <= *left;
    *left = left.saturating_sub(size);
    fits
}
