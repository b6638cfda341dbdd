//! Clients that open connections and keep the host waiting: half a handshake, half a head, half a
//! body, answers that they do not read, and streams without number; others send bodies that are deeply
//! nested. Meanwhile the host answers others without delay, in bounded memory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::certificates::Authority;
use crate::support::harness::{Client, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::{HostProcess, unused_port};

const HALF_OPEN: usize = 1_100;
const TRICKLING: usize = 1_024;
const STALLED: usize = 300;
const STREAMS: usize = 5_000;
/// Streams on one connection, fewer than the host accepts there.
const STREAMS_TOGETHER: usize = 100;
const DEEP_BODIES: usize = 100;
/// How deeply each of those is nested.
const DEPTH: usize = 200_000;
/// Longest time for an answer about the host's health, in 95 of 100 cases: a machine that others use
/// keeps any program waiting now and then.
const HEALTH_P95_MAX: Duration = Duration::from_millis(100);
/// Longest time in the other cases.
const HEALTH_MAX: Duration = Duration::from_secs(1);
/// Most memory that the host may occupy.
const MEMORY_MAX_BYTES: u64 = 512 << 20;
/// For how long the host is watched.
const WATCH: Duration = Duration::from_secs(12);
/// Handshakes in progress at the same time.
const TOGETHER: usize = 64;

/// Everything that slow clients hold open.
#[derive(Default)]
struct Siege {
    plain: Vec<TcpStream>,
    encrypted: Vec<TlsStream<TcpStream>>,
    trickling: Vec<TlsStream<TcpStream>>,
    streams: Vec<(SendRequest<Empty<Bytes>>, AbortOnDropHandle<()>)>,
    answers: Vec<hyper::Response<Incoming>>,
}

struct Attacker {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Attacker {
    fn new(port: u16, authority: &Authority, http2: bool) -> Result<Self> {
        let mut config = authority.trusting(None)?;
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection with a small window, on which this was sent.
    async fn sent(&self, text: &str) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from("localhost")?;
        let mut stream = self.connector.connect(name, stream).await?;
        stream.write_all(text.as_bytes()).await?;
        Ok(stream)
    }

    /// As many connections as can be made; the host may close them any time.
    async fn many(&self, count: usize, text: &str) -> Vec<TlsStream<TcpStream>> {
        let mut all = Vec::new();
        while all.len() < count {
            let next = TOGETHER.min(count - all.len());
            let made = futures::future::join_all((0..next).map(|_| self.sent(text))).await;
            let made: Vec<_> = made.into_iter().flatten().collect();
            if made.is_empty() {
                break;
            }
            all.extend(made);
        }
        all
    }

    /// Live streams on one connection.
    async fn streams(
        &self,
    ) -> Result<(SendRequest<Empty<Bytes>>, AbortOnDropHandle<()>, Vec<hyper::Response<Incoming>>)>
    {
        let stream = TcpStream::connect(self.address).await?;
        let stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let http2 = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = http2.handshake(TokioIo::new(stream)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let ask = |_| {
            let request = hyper::Request::get("https://localhost/events")
                .header("accept", "text/event-stream")
                .body(Empty::new());
            let mut sender = sender.clone();
            async move { anyhow::Ok(sender.send_request(request?).await?) }
        };
        let answers = try_join_all((0..STREAMS_TOGETHER).map(ask)).await?;
        Ok((sender, driver, answers))
    }
}

/// Opens everything at the same time.
async fn besiege(port: u16, authority: &Authority) -> Result<Siege> {
    let http1 = Attacker::new(port, authority, false)?;
    let http2 = Attacker::new(port, authority, true)?;
    let half = async {
        let mut plain = Vec::new();
        for at in 0..HALF_OPEN / 2 {
            let Ok(mut stream) = TcpStream::connect(http1.address).await else { continue };
            // Nothing, or the beginning of a handshake.
            if at % 2 == 0 {
                let _ = stream.write_all(b"\x16\x03\x01").await;
            }
            plain.push(stream);
        }
        plain
    };
    let head = http1.many(HALF_OPEN / 2, "GET /orders HTTP/1.1\r\nhost: a\r\nx-a: ");
    let body = "POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                content-length: 1000\r\n\r\n{";
    let bodies = http1.many(TRICKLING, body);
    let page = http1.many(STALLED, "GET /events?limit=200 HTTP/1.1\r\nhost: a\r\n\r\n");
    let streams = async {
        let mut all = Vec::new();
        for _ in 0..STREAMS / STREAMS_TOGETHER {
            all.extend(http2.streams().await.ok());
        }
        all
    };
    let (plain, mut encrypted, trickling, stalled, streams) =
        tokio::join!(half, head, bodies, page, streams);
    encrypted.extend(stalled);
    let mut siege = Siege { plain, encrypted, trickling, ..Siege::default() };
    for (sender, driver, answers) in streams {
        siege.streams.push((sender, driver));
        siege.answers.extend(answers);
    }
    Ok(siege)
}

/// Sends a byte of each body now and then.
async fn trickle(mut bodies: Vec<TlsStream<TcpStream>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for body in &mut bodies {
            // One that the host has closed stays in the list.
            let _ = body.write_all(b" ").await;
        }
    }
}

/// Sends bodies that are deeply nested, all at the same time and as often as they are refused.
/// Returns how many were.
async fn send_deep_bodies(client: &Client, until: Instant) -> Result<usize> {
    let body = "[".repeat(DEPTH);
    let one = async || {
        let mut refused = 0;
        while Instant::now() < until {
            // The host may close the connection in favour of a quicker client.
            if let Ok((status, answer)) =
                client.post_raw("/orders", "application/json", body.clone()).await
            {
                ensure!([400, 422, 429, 503].contains(&status.as_u16()), "{status} {answer}");
                refused += usize::from(status.is_client_error());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(refused)
    };
    Ok(try_join_all((0..DEEP_BODIES).map(|_| one())).await?.into_iter().sum())
}

/// The times of answers about the host's health, the shortest first. As many orders were accepted.
async fn watch(fresh: impl Fn() -> Result<Client>, until: Instant) -> Result<Vec<Duration>> {
    let mut answers = Vec::new();
    while Instant::now() < until {
        // A new connection each time: the handshake is part of what a client waits for.
        let client = fresh()?;
        let asked = Instant::now();
        let (status, answer) = client.get("/health").await?;
        let answered = asked.elapsed();
        ensure!(status.is_success(), "{status} {answer}");
        let id = format!("o-{}", answers.len());
        let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 });
        let (status, answer) = client.post("/orders", &order).await?;
        ensure!(status.as_u16() == 202, "{status} {answer}");
        answers.push(answered);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answers.sort_unstable();
    Ok(answers)
}

/// Lets this process open as many files as the system allows.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let files = limit.maximum.unwrap_or(u64::MAX);
    ensure!(files >= 4_096, "the hard limit on open files is {files}: this test needs 4,096");
    Ok(())
}

fn encrypted(cert: &Path, key: &Path) -> String {
    format!("[http.tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n", cert.display(), key.display())
}

async fn withstands(open_files: Option<u32>) -> Result<()> {
    raise_open_files()?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let pair = authority.server("server")?;
    let env = TestEnv::shipped(&format!("{}{AMPLE_STOCK}", encrypted(&pair.cert, &pair.key)))?;
    let port = unused_port()?;
    let limit = open_files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
    let host = HostProcess::start_limited(&env, port, &limit, &[])?;
    let url = format!("https://localhost:{port}");
    let fresh = || Ok(Client::with(url.clone(), authority.http_client(None, false)?));
    let client = fresh()?;
    host.wait_until_ready(&client, &env).await?;
    // Each page that a stalled reader asks for would be 40 MB.
    for id in 0..40 {
        let note = "x".repeat(1_000_000);
        let (status, answer) = client.post_raw("/events/desk.note", "text/plain", note).await?;
        ensure!(status.as_u16() == 202, "{id}: {answer}");
    }
    let siege = besiege(port, &authority).await?;
    let Siege { trickling, .. } = &siege;
    ensure!(trickling.len() > TRICKLING / 2, "only {} bodies trickle", trickling.len());
    let Siege { plain, encrypted, trickling, streams, answers } = siege;
    let trickling = AbortOnDropHandle::new(tokio::spawn(trickle(trickling)));
    let until = Instant::now() + WATCH;
    let deep = fresh()?;
    let (health, refused) = tokio::try_join!(watch(fresh, until), send_deep_bodies(&deep, until))?;
    let memory = host.peak_memory_bytes()?;
    let slowest = *health.last().context("an answer")?;
    let (orders, p95) = (health.len(), health[health.len() * 95 / 100]);
    println!(
        "health p95 {p95:?}, slowest {slowest:?}; {orders} orders; {refused} deep bodies refused; \
         peak of {} MB",
        memory >> 20
    );
    ensure!(refused >= DEEP_BODIES, "only {refused} deep bodies were refused");
    ensure!(p95 <= HEALTH_P95_MAX, "5 % of the answers about the health took {p95:?} or more");
    ensure!(slowest <= HEALTH_MAX, "an answer about the health took {slowest:?}");
    ensure!(memory <= MEMORY_MAX_BYTES, "the host occupied {} MB", memory >> 20);
    drop((plain, encrypted, trickling, streams, answers));
    let last = format!("o-{}", orders - 1);
    client.wait_for_status(&last, "ready").await?;
    eventually("all orders to be ready", || async {
        let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
        Ok((env.query_count(open).await? == 0).then_some(()))
    })
    .await?;
    host.kill()
}

/// The usual limit: connections give up their places to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn slow_clients_do_not_hold_up_others_with_few_files() -> Result<()> {
    withstands(Some(1_024)).await
}

/// Enough files for all connections at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures time: `cargo xtask test` runs it alone, after the others"]
async fn slow_clients_do_not_hold_up_others_with_many_files() -> Result<()> {
    withstands(None).await
}
