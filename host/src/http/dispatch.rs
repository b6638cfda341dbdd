//! Dispatches requests to the threads of their namespace, so that nothing that a namespace does for a
//! request runs on the thread of the server.
//!
//! When the client goes away, what runs for its request is dropped.

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use futures::stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span};

use super::problem::Problem;

/// Parts of a streamed answer that wait for the server.
const PARTS_MAX: usize = 4;

/// Where a namespace runs.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) runtime: Handle,
    pub(super) span: Span,
}

impl Destination {
    /// Runs `work` there. The error is that of the namespace: it has ended.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let running = self.runtime.spawn(work.instrument(self.span.clone()));
        match AbortOnDropHandle::new(running).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Problem::unavailable("the namespace is stopping")),
        }
    }
}

/// Lets the namespace answer the request.
pub(super) async fn dispatch(
    State(destination): State<Destination>,
    request: Request,
    next: Next,
) -> Response {
    let runtime = destination.runtime.clone();
    let answering = async move { stream_from(&runtime, next.run(request).await) };
    destination.run(answering).await.unwrap_or_else(IntoResponse::into_response)
}

/// The answer, with a body that the namespace makes on its own threads if it is not complete.
fn stream_from(runtime: &Handle, answer: Response) -> Response {
    if answer.body().size_hint().exact().is_some() {
        return answer;
    }
    answer.map(|body| {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, axum::Error>>(PARTS_MAX);
        let mut parts = body.into_data_stream();
        let sending = runtime.spawn(
            async move {
                while let Some(part) = parts.next().await {
                    if sender.send(part).await.is_err() {
                        break;
                    }
                }
            }
            .in_current_span(),
        );
        // Dropped with the answer, also while the next part is awaited.
        let sending = AbortOnDropHandle::new(sending);
        Body::from_stream(stream::unfold((receiver, sending), |(mut receiver, sending)| async {
            receiver.recv().await.map(|part| (part, (receiver, sending)))
        }))
    })
}
