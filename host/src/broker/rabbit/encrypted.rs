//! An encrypted connection, `amqps://`.
//!
//! The driver's own TLS would add a second way to read certificates, and three dozen crates. So it
//! runs over a stream that is encrypted here, as all other connections of a host are. The files are
//! read for each connection: renewed ones take effect with the next one.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::tls::{ClientFiles, client_config, explain};

/// What the driver reads from and writes to.
type Encrypted = Compat<TlsStream<TcpStream>>;

/// Opens a connection; the error says why it failed.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    files: &ClientFiles,
) -> Result<Connection, String> {
    // Before the driver, so that the error is this one, and not what the driver makes of it.
    let (host, port) = (uri.authority.host.clone(), uri.authority.port);
    let stream = encrypted(&host, port, files).await?;
    let stream = std::sync::Mutex::new(Some(stream));
    let take = async move |_, _| {
        let mut stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection has ended"))?;
        Ok(AsyncTcpStream::Plain(stream))
    };
    let runtime = Runtime::new(EncryptedTokio(Tokio::current()));
    let connected = Connection::connector(uri, runtime, take, properties).await;
    connected.map_err(|error| match error.kind() {
        lapin::ErrorKind::IOError(cause) => explain(&**cause).unwrap_or_else(|| error.to_string()),
        _ => error.to_string(),
    })
}

async fn encrypted(host: &str, port: u16, files: &ClientFiles) -> Result<Encrypted, String> {
    let (owned, named) = (files.clone(), ServerName::try_from(host.to_owned()));
    let name = named.map_err(|_| format!("no certificate can be for `{host}`"))?;
    let reading = tokio::task::spawn_blocking(move || client_config(&owned));
    let config = reading.await.map_err(|error| error.to_string())?;
    let config = config.map_err(|problems| problems.join("; "))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    // It only avoids a small delay.
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream
        .map_err(|error| explain(&error).unwrap_or_else(|| format!("TLS handshake: {error}")))?;
    Ok(stream.compat())
}

/// Tokio with encrypted streams, which the driver does not open itself.
#[derive(Clone, Debug)]
struct EncryptedTokio(Tokio);

impl RuntimeKit for EncryptedTokio {}

impl Executor for EncryptedTokio {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for EncryptedTokio {
    type TcpStream = Encrypted;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Encrypted>> + Send + 'static {
        std::future::ready(Err(io::Error::other("only a name can be connected to")))
    }
}
