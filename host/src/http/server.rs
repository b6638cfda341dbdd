//! Serves the API on one listener. Every connection is a task of the server, so nothing of it
//! outlives the host: when the host stops, requests in progress are answered first; when its run is
//! aborted, connections are closed.
//!
//! Bounds: the number of connections (`places`), and how long one may keep the server waiting
//! (`activity`). A handshake is part of its connection's task, so a silent client delays no other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::activity::Timeouts;
use self::connection::Endpoint;
pub(crate) use self::limits::places;
use self::places::Connections;
pub use self::places::OpenConnections;
use super::RequestsInProgress;
#[cfg(feature = "tls")]
use crate::tls::ReloadedTls;

mod activity;
mod connection;
#[cfg(feature = "tls")]
mod http2;
mod limits;
mod places;
mod requests;
mod stream;
#[cfg(test)]
mod tests;

/// Time in which an answer that was made reaches its client when the host stops.
const LINGER: Duration = Duration::from_millis(200);
/// How often the connections are checked for clients that keep the server waiting.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Serves the API on one listener, as often as it is run: connections that arrive between two runs
/// wait in the listener's backlog.
pub struct Server {
    listener: std::net::TcpListener,
    endpoint: Endpoint,
    work: RequestsInProgress,
    /// Most connections.
    places: usize,
    /// Where the open ones are counted.
    open: Arc<OpenConnections>,
    timeouts: Timeouts,
}

impl Server {
    /// A server for a listener that does not block.
    pub(crate) fn new(
        listener: std::net::TcpListener,
        router: Router,
        work: RequestsInProgress,
    ) -> Self {
        let endpoint = Endpoint::new(router);
        let (places, timeouts, open) = (usize::MAX, Timeouts::default(), Arc::default());
        Self { listener, endpoint, work, places, open, timeouts }
    }

    /// Bounds the connections in number and in the time for which they keep the server waiting.
    pub(crate) fn bounded(self, places: usize, timeouts: Timeouts) -> Self {
        Self { places, timeouts, ..self }
    }

    /// Counts its connections where others see their number.
    pub(crate) fn counted(self, open: Arc<OpenConnections>) -> Self {
        Self { open, ..self }
    }

    /// Speaks `https` only.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypted(mut self, tls: Option<Arc<ReloadedTls>>) -> Self {
        self.endpoint.tls = tls;
        self
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
        let mut connections = Connections::new(self.places, self.timeouts, Arc::clone(&self.open));
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                (stream, address) = Listener::accept(&mut listener), if connections.have_room() => {
                    connections.open(&self.endpoint, stream, address, &cancel);
                }
                () = connections.end_of_one(), if !connections.are_none() => {}
                _ = checks.tick() => connections.check(),
            }
        }
        drop(listener);
        self.work.close();
        tokio::select! {
            () = self.finish_requests() => {}
            () = async { while !connections.are_none() { connections.end_of_one().await } } => {}
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
