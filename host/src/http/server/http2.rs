//! HTTP/2: requests that overlap on one connection.
//!
//! Bounds: requests in progress, the size of a head, and what is buffered in both directions, each
//! for one connection. Its tasks end with it.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::connection::NewConnection;
use super::requests::{PART_MAX_BYTES, Requests};

/// Most requests in progress on one connection.
const REQUESTS_MAX: u32 = 128;
/// Largest head of a request.
const HEAD_MAX_BYTES: u32 = 64 << 10;
/// Bytes that a client may send before the host has read them: of one body, and of all.
const BODY_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How often a silent client is asked whether it is still there, and how long it has to reply.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: Requests,
    connection: NewConnection,
) {
    connection.activity.multiplexed();
    let tasks = Arc::new(Mutex::new(JoinSet::new()));
    let mut http2 = http2::Builder::new(ConnectionTasks(Arc::downgrade(&tasks)));
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS_MAX)
        .max_header_list_size(HEAD_MAX_BYTES)
        .initial_stream_window_size(BODY_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(PART_MAX_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut serving = pin!(http2.serve_connection(TokioIo::new(stream), requests));
    tokio::select! {
        _ = serving.as_mut() => return,
        () = connection.close.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// Runs what answers the requests of one connection. Weak: the tasks themselves hold it.
#[derive(Clone)]
struct ConnectionTasks(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for ConnectionTasks {
    fn execute(&self, future: F) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future.in_current_span());
    }
}
