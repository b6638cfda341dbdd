//! Serves the API on one listener. Every connection is a task of the server, so nothing of it
//! outlives the host: when the host stops, requests in progress are answered first; when its run is
//! aborted, connections are closed.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::RequestsInProgress;

/// Time in which an answer that was made reaches its client when the host stops.
const LINGER: Duration = Duration::from_millis(200);

/// Serves the API on one listener, as often as it is run: connections that arrive between two runs
/// wait in the listener's backlog.
pub struct Server {
    listener: std::net::TcpListener,
    router: Router,
    work: RequestsInProgress,
}

impl Server {
    /// A server for a listener that does not block.
    pub fn new(listener: std::net::TcpListener, router: Router, work: RequestsInProgress) -> Self {
        Self { listener, router, work }
    }

    /// Serves until cancelled, then finishes the requests in progress. One that was not received
    /// whole is none.
    pub async fn run(&self, cancel: CancellationToken) {
        if let Err(error) = self.serve(cancel).await {
            tracing::error!(%error, "the HTTP server failed");
        }
    }

    async fn serve(&self, cancel: CancellationToken) -> io::Result<()> {
        let mut listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                (stream, _) = Listener::accept(&mut listener) => {
                    let serving = serve_connection(stream, self.router.clone(), cancel.clone());
                    connections.spawn(serving.in_current_span());
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        self.work.close();
        tokio::select! {
            () = self.finish_requests() => {}
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
        Ok(())
    }

    /// Waits until no request is in progress, and its answer was sent.
    async fn finish_requests(&self) {
        loop {
            self.work.wait().await;
            tokio::time::sleep(LINGER).await;
            if self.work.is_empty() {
                return;
            }
        }
    }
}

/// Serves one connection. When cancelled, it is closed after the request in progress.
async fn serve_connection(stream: TcpStream, router: Router, cancel: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // An error is a client that went away, or one that does not speak HTTP.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = cancel.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
