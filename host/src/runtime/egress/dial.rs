//! From a name to a connection: resolve it, check every address, connect to a checked address, and
//! verify TLS by the name.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::address::special;
use super::mock::{self, HttpMock};
use super::{CallError, Phase, Target};
#[cfg(test)]
use crate::tls::trusting;
use crate::tls::trusting_the_system;

/// Most addresses of one name that are tried, one after another.
const ADDRESSES_MAX: usize = 4;

/// Resolves a name; blocks.
pub(super) type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// How this host connects.
pub(super) struct Dialer {
    resolve: Resolve,
    tls: Option<Arc<ClientConfig>>,
    /// Answers instead of connections.
    mocks: Option<Arc<Vec<HttpMock>>>,
}

/// A connection that carries HTTP.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Dialer {
    /// Uses the resolver and the trusted certificates of the operating system; `secure`: loads the
    /// certificates.
    pub(super) fn system(secure: bool) -> Self {
        let resolve = |host: &str, port: u16| Ok((host, port).to_socket_addrs()?.collect());
        Self { resolve: Arc::new(resolve), tls: secure.then(trusting_the_system), mocks: None }
    }

    /// Connects to nothing.
    pub(super) fn mocked(mocks: Vec<HttpMock>) -> Self {
        Self { mocks: Some(Arc::new(mocks)), ..Self::system(false) }
    }

    /// Uses the given resolver and certificates.
    #[cfg(test)]
    pub(super) fn with(resolve: Resolve, roots: rustls::RootCertStore) -> Self {
        Self { resolve, tls: Some(trusting(roots)), mocks: None }
    }

    /// Connects before `by`. A lookup holds the slot until it ends, even after its caller has timed
    /// out: it cannot be cancelled, and slots bound the number of its threads.
    pub(super) async fn connect(
        &self,
        target: &Target,
        slot: OwnedSemaphorePermit,
        by: Instant,
    ) -> Result<(Box<dyn Wire>, OwnedSemaphorePermit), CallError> {
        if let Some(mocks) = &self.mocks {
            return Ok((mock::connect(target, mocks), slot));
        }
        let (addresses, slot) = self.addresses(target, slot, by).await?;
        let connect = async {
            let stream = connect_any(&addresses).await.map_err(CallError::Connect)?;
            // It only avoids a small delay.
            let _ = stream.set_nodelay(true);
            if target.secure {
                self.secure(target, stream).await
            } else {
                Ok(Box::new(stream) as Box<dyn Wire>)
            }
        };
        let wire =
            timeout_at(by, connect).await.map_err(|_| CallError::TimedOut(Phase::Connect))??;
        Ok((wire, slot))
    }

    /// The addresses of a host that may be connected to; at least one.
    async fn addresses(
        &self,
        target: &Target,
        slot: OwnedSemaphorePermit,
        by: Instant,
    ) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), CallError> {
        let (found, slot) = match target.host.parse::<IpAddr>() {
            Ok(address) => (vec![SocketAddr::new(address, target.port)], slot),
            Err(_) => self.look_up(target, slot, by).await?,
        };
        Ok((allowed(target, found)?, slot))
    }

    async fn look_up(
        &self,
        target: &Target,
        slot: OwnedSemaphorePermit,
        by: Instant,
    ) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), CallError> {
        let (resolve, host, port) = (Arc::clone(&self.resolve), target.host.clone(), target.port);
        let lookup = tokio::task::spawn_blocking(move || (resolve(&host, port), slot));
        let done = timeout_at(by, lookup).await.map_err(|_| CallError::TimedOut(Phase::Name))?;
        let (found, slot) = done.map_err(|error| CallError::Name(io::Error::other(error)))?;
        Ok((found.map_err(CallError::Name)?, slot))
    }

    async fn secure(&self, target: &Target, stream: TcpStream) -> Result<Box<dyn Wire>, CallError> {
        let unusable = |error: &'static str| CallError::Tls(io::Error::other(error));
        let tls = self.tls.as_ref().ok_or_else(|| unusable("no certificates are trusted"))?;
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| unusable("no certificate can be for this name"))?;
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(CallError::Tls)?;
        Ok(Box::new(stream))
    }
}

/// The addresses among `found` that may be connected to; at least one.
pub(super) fn allowed(
    target: &Target,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, CallError> {
    let prohibited =
        found.iter().find_map(|address| special(address.ip()).map(|kind| (address.ip(), kind)));
    let allowed = |address: &SocketAddr| target.allow_private || special(address.ip()).is_none();
    let addresses: Vec<SocketAddr> =
        found.into_iter().filter(allowed).take(ADDRESSES_MAX).collect();
    match (addresses.is_empty(), prohibited) {
        (true, Some((address, kind))) => {
            Err(CallError::Prohibited { target: target.written.clone(), address, kind })
        }
        (true, None) => Err(CallError::Name(io::ErrorKind::NotFound.into())),
        (false, _) => Ok(addresses),
    }
}

/// Connects to the first address that accepts.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
