//! Reads a JSON Web Key Set: a file, or a URL without redirects, with the trusted certificates of the
//! operating system.

use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Largest set.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Longest time for a set.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a file.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_BYTES as u64 {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// Reads a URL.
pub(super) async fn url(url: &Uri) -> Result<Vec<u8>, String> {
    let read = timeout(TIMEOUT, get(url)).await;
    read.map_err(|_| format!("no answer within {} ms", TIMEOUT.as_millis()))?
}

async fn get(url: &Uri) -> Result<Vec<u8>, String> {
    let authority = url.authority().ok_or("it has no host")?;
    let host = authority.host();
    let secure = url.scheme_str() == Some("https");
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
    if !secure {
        return send(stream, url).await;
    }
    #[cfg(feature = "tls")]
    let answer = {
        let encrypted = crate::tls::connect(bare, stream).await;
        send(encrypted.map_err(|error| error.to_string())?, url).await
    };
    #[cfg(not(feature = "tls"))]
    let answer = Err("this build has no encryption (feature `tls`)".to_owned());
    answer
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    url: &Uri,
) -> Result<Vec<u8>, String> {
    let error = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(error)?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let receive = async {
        let answer = sender.send_request(request).await.map_err(error)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string())
    };
    tokio::pin!(receive);
    tokio::select! {
        biased;
        received = &mut receive => received,
        closed = connection => match closed {
            Ok(()) => receive.await,
            Err(closed) => Err(closed.to_string()),
        },
    }
}
