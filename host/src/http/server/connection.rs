//! One connection: the handshake if there is one, then HTTP/1.1, or HTTP/2 if the client prefers it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::requests::Requests;
use super::stream::Watched;
use crate::domain::client_certificate::ClientCertificate;
use crate::http::Peer;
#[cfg(feature = "tls")]
use crate::tls::ReloadedTls;

/// Largest head of a request over HTTP/1.1.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// What connections lead to.
#[derive(Clone)]
pub(super) struct Endpoint {
    router: Router,
    /// None: connections are not encrypted.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<ReloadedTls>>,
}

/// A connection that was accepted.
pub(super) struct NewConnection {
    /// Of the client.
    pub(super) address: SocketAddr,
    /// Whether all places are taken.
    pub(super) only_health: bool,
    pub(super) activity: Arc<Activity>,
    /// Ends the connection after the requests in progress.
    pub(super) close: CancellationToken,
}

impl Endpoint {
    pub(super) fn new(router: Router) -> Self {
        Self {
            router,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Serves one connection until it ends, or is closed. An error is a client that went away, or
    /// one that does not speak the protocol.
    pub(super) async fn serve(self, stream: TcpStream, connection: NewConnection) {
        let stream = Watched::new(stream, Arc::clone(&connection.activity));
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.clone() {
            return self.serve_encrypted(&tls, stream, connection).await;
        }
        self.serve_http1(stream, connection, None).await;
    }

    #[cfg(feature = "tls")]
    async fn serve_encrypted(
        self,
        tls: &ReloadedTls,
        stream: Watched<TcpStream>,
        connection: NewConnection,
    ) {
        // It only avoids a small delay.
        let _ = stream.get_ref().set_nodelay(true);
        let accept = tokio_rustls::TlsAcceptor::from(tls.current()).accept(stream);
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = connection.close.cancelled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(address = %connection.address, %error, "a TLS handshake failed");
                return;
            }
        };
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.and_then(crate::tls::client_certificate);
        if session.alpn_protocol() == Some(b"h2") {
            let requests = self.requests(&connection, certificate);
            super::http2::serve(stream, requests, connection).await;
        } else {
            self.serve_http1(stream, connection, certificate).await;
        }
    }

    async fn serve_http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: NewConnection,
        certificate: Option<ClientCertificate>,
    ) {
        let requests = self.requests(&connection, certificate);
        let mut http1 = http1::Builder::new();
        http1.max_header_size(HEAD_MAX_BYTES).keep_alive(!connection.only_health);
        let mut serving = pin!(http1.serve_connection(TokioIo::new(stream), requests));
        tokio::select! {
            _ = serving.as_mut() => return,
            () = connection.close.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }

    #[cfg(feature = "tls")]
    fn encrypts(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with the feature, it knows")]
    fn encrypts(&self) -> bool {
        false
    }

    fn requests(
        self,
        connection: &NewConnection,
        certificate: Option<ClientCertificate>,
    ) -> Requests {
        let NewConnection { address, only_health, .. } = *connection;
        let peer = Peer { address, certificate, encrypted: self.encrypts(), only_health };
        Requests::new(self.router, Arc::clone(&connection.activity), peer)
    }
}
