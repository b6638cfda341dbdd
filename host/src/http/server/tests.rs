//! Real connections to a server with a router of its own. Time-outs are short, and no test waits for
//! the absence of something.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::get;
use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::http::Peer;

/// Longer than any test.
const LONG: Duration = Duration::from_mins(3);
const SHORT: Duration = Duration::from_millis(100);
const PATIENT: Timeouts = Timeouts { head: LONG, idle: LONG, stall: LONG };

/// A server that runs until it is dropped.
struct Running {
    address: SocketAddr,
    _stop: DropGuard,
    _task: AbortOnDropHandle<()>,
}

fn run(router: Router, adapt: impl FnOnce(Server) -> Server) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let server = adapt(Server::new(listener, router, RequestsInProgress::new()));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move { server.run(stopped).await });
    Running { address, _stop: stop.drop_guard(), _task: AbortOnDropHandle::new(task) }
}

async fn sent(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What a connection receives until the other end closes it.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is cut off may be reset.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut text)).await.expect("an end");
    String::from_utf8_lossy(&text).into_owned()
}

const ASK: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[tokio::test]
async fn slow_heads_are_cut_off() {
    let timeouts = Timeouts { head: SHORT, ..PATIENT };
    let server = run(hello(), |server| server.bounded(10, timeouts));
    for text in ["", "GET / HTTP/1.1\r\nhost: "] {
        assert_eq!(rest(&mut sent(server.address, text).await).await, "", "{text}");
    }
    // So is one that begins after an answer.
    let mut stream = sent(server.address, &ASK.replace("close", "keep-alive")).await;
    let mut answer = String::new();
    while !answer.ends_with("hello") {
        let mut part = [0; 512];
        let count = stream.read(&mut part).await.unwrap();
        answer.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    stream.write_all(b"GET ").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let timeouts = Timeouts { idle: SHORT, ..PATIENT };
    let server = run(hello(), |server| server.bounded(10, timeouts));
    let mut stream = sent(server.address, &ASK.replace("close", "keep-alive")).await;
    assert!(rest(&mut stream).await.ends_with("hello"));
}

#[tokio::test]
async fn whoever_keeps_the_server_waiting_longest_gives_up_the_place() {
    let server = run(hello(), |server| server.bounded(3, PATIENT));
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(sent(server.address, "GET / HTTP/1.1\r\n").await);
    }
    for mut first in silent {
        let answer = rest(&mut sent(server.address, ASK).await).await;
        assert!(answer.ends_with("hello"), "{answer}");
        // One of the silent ones made room; a new one takes the place again.
        assert_eq!(rest(&mut first).await, "");
        let another = sent(server.address, "GET / HTTP/1.1\r\n").await;
        tokio::spawn(async move { (tokio::time::sleep(LONG).await, another) });
    }
}

#[tokio::test]
async fn connections_beyond_the_places_are_marked() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at_door, at_exit) = (Arc::clone(&entered), Arc::clone(&leave));
    let work = move || async move {
        at_door.notify_one();
        at_exit.notified().await;
        "done"
    };
    let mark = async |Extension(peer): Extension<Arc<Peer>>| peer.only_health.to_string();
    let router = Router::new().route("/work", get(work)).route("/", get(mark));
    let server = run(router, |server| server.bounded(1, PATIENT));
    assert!(rest(&mut sent(server.address, ASK).await).await.ends_with("false"));
    let mut working = sent(server.address, &ASK.replace("/ ", "/work ")).await;
    entered.notified().await;
    // The server works for the first one, so it waits for nobody who could make room.
    assert!(rest(&mut sent(server.address, ASK).await).await.ends_with("true"));
    leave.notify_one();
    assert!(rest(&mut working).await.ends_with("done"));
}

/// An endless answer, and the number of such answers that were dropped.
fn endless() -> (Router, Arc<AtomicUsize>) {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let endless = move || {
        let counted = Counted(Arc::clone(&count));
        let parts = stream::unfold(counted, async |counted| {
            let part = Bytes::from(vec![b'x'; 1 << 16]);
            Some((Ok::<_, std::convert::Infallible>(part), counted))
        });
        std::future::ready(Body::from_stream(parts))
    };
    (Router::new().route("/endless", get(endless)).route("/", get(async || "hello")), dropped)
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("the condition to hold");
}

#[tokio::test]
async fn readers_that_take_nothing_are_cut_off() {
    let (router, dropped) = endless();
    let timeouts = Timeouts { stall: SHORT, ..PATIENT };
    let server = run(router, |server| server.bounded(10, timeouts));
    let stalled = sent(server.address, &ASK.replace("/ ", "/endless ")).await;
    until(|| dropped.load(Ordering::SeqCst) == 1).await;
    drop(stalled);
    // One that reads may take as long as it likes.
    let mut reader = sent(server.address, &ASK.replace("/ ", "/endless ")).await;
    let (mut count, mut buffer) = (0, vec![0; 1 << 16]);
    while count < 64 << 20 {
        count += reader.read(&mut buffer).await.unwrap();
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[cfg(feature = "tls")]
mod encrypted {
    use std::path::PathBuf;

    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::tls::{ClientFiles, NamedFile, ReloadedTls, ServerFiles, client_config};

    /// An authority, and the files of what it signs.
    struct Authority {
        folder: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            std::fs::write(folder.path().join("ca.crt"), pem).unwrap();
            Self { folder, issuer: Issuer::new(params, key) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn file(&self, name: &str) -> NamedFile {
            NamedFile::new(name, self.path(name))
        }

        fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (NamedFile, NamedFile) {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages.push(usage);
            let key = KeyPair::generate().unwrap();
            let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
            std::fs::write(self.path(&format!("{name}.crt")), pem).unwrap();
            std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
            (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")))
        }

        fn server(&self, clients_must: bool) -> Arc<ReloadedTls> {
            let (cert, key) = self.sign("server", ExtendedKeyUsagePurpose::ServerAuth);
            let client_ca = Some(self.file("ca.crt"));
            let files = ServerFiles { cert, key, client_ca, clients_must };
            Arc::new(ReloadedTls::load(files).unwrap())
        }

        fn client(&self, name: Option<&str>) -> ClientConfig {
            let identity = name.map(|name| self.sign(name, ExtendedKeyUsagePurpose::ClientAuth));
            let files = ClientFiles { ca: Some(self.file("ca.crt")), identity };
            Arc::unwrap_or_clone(client_config(&files).unwrap())
        }
    }

    async fn connect(
        address: SocketAddr,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The answer to one request; an error when the connection is refused.
    async fn ask(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
        let mut stream = connect(address, config).await?;
        stream.write_all(ASK.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    fn who() -> Router {
        let who = async |Extension(peer): Extension<Arc<Peer>>| {
            let certificate = peer.certificate.as_ref();
            let name = certificate.map(|certificate| certificate.subject.clone());
            name.unwrap_or_else(|| "nobody".to_owned())
        };
        Router::new().route("/", get(who))
    }

    #[tokio::test]
    async fn requests_carry_the_verified_certificate_of_the_client() {
        let (authority, other) = (Authority::new(), Authority::new());
        let optional = authority.server(false);
        let server = run(who(), |server| server.bounded(10, PATIENT).encrypted(Some(optional)));
        let answer = ask(server.address, authority.client(Some("billing"))).await.unwrap();
        assert!(answer.contains("CN=billing"), "{answer}");
        let answer = ask(server.address, authority.client(None)).await.unwrap();
        assert!(answer.ends_with("nobody"), "{answer}");
        // A certificate of another authority is refused, not ignored.
        let mut stranger = other.sign("stranger", ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::copy(&stranger.0.path, authority.path("x.crt")).unwrap();
        std::fs::copy(&stranger.1.path, authority.path("x.key")).unwrap();
        stranger = (authority.file("x.crt"), authority.file("x.key"));
        let files = ClientFiles { ca: Some(authority.file("ca.crt")), identity: Some(stranger) };
        let config = Arc::unwrap_or_clone(client_config(&files).unwrap());
        assert!(ask(server.address, config).await.is_err());

        let required = authority.server(true);
        let server = run(who(), |server| server.bounded(10, PATIENT).encrypted(Some(required)));
        let answer = ask(server.address, authority.client(Some("billing"))).await.unwrap();
        assert!(answer.contains("CN=billing"), "{answer}");
        assert!(ask(server.address, authority.client(None)).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_handshake_delays_no_other_and_is_cut_off() {
        let authority = Authority::new();
        let tls = authority.server(false);
        let timeouts = Timeouts { head: SHORT, ..PATIENT };
        let server = run(who(), |server| server.bounded(10, timeouts).encrypted(Some(tls)));
        let mut silent = sent(server.address, "").await;
        let answer = ask(server.address, authority.client(None)).await.unwrap();
        assert!(answer.ends_with("nobody"), "{answer}");
        assert_eq!(rest(&mut silent).await, "");
    }

    #[tokio::test]
    async fn overlapping_readers_that_take_nothing_are_cut_off() {
        let authority = Authority::new();
        let (router, dropped) = endless();
        let timeouts = Timeouts { stall: SHORT, ..PATIENT };
        let tls = authority.server(false);
        let server = run(router, |server| server.bounded(10, timeouts).encrypted(Some(tls)));
        let mut config = authority.client(None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TokioIo::new(connect(server.address, config).await.unwrap());
        let http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = http2.handshake(stream).await.unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = |path: &str| {
            let url = format!("https://localhost{path}");
            axum::http::Request::builder().uri(url).body(Empty::<Bytes>::new()).unwrap()
        };
        let answer = sender.send_request(request("/")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        // The connection itself is read, so only the windows of HTTP/2 hold the answers back.
        let stalled = [
            sender.send_request(request("/endless")).await.unwrap(),
            sender.send_request(request("/endless")).await.unwrap(),
        ];
        until(|| dropped.load(Ordering::SeqCst) == 2).await;
        drop((stalled, connection));
    }
}
