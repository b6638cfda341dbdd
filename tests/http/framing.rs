//! Requests that are no valid HTTP, or that two programs would read differently: each ends with a client
//! error or with its connection, and what follows it is not taken for a request. Others are answered.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::harness::{Client, TestEnv};
use crate::support::load::AMPLE_STOCK;

const JSON: &str = "host: localhost\r\ncontent-type: application/json\r\n";
const SECOND: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// What a connection on which this was sent receives until the host closes it.
async fn answer(client: &Client, sent: &[u8]) -> Result<String> {
    let address = client.url.strip_prefix("http://").context("an address")?;
    let (mut received, mut sending) = TcpStream::connect(address).await?.into_split();
    let sent = sent.to_owned();
    // The host may close a connection on which it still receives.
    let sending = tokio::spawn(async move {
        let _ = sending.write_all(&sent).await;
        sending
    });
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_mins(3), received.read_to_end(&mut text));
    let _ = read.await.context("the connection is still open")?;
    drop(sending.await?);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The statuses of the answers in a text.
fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect()
}

/// An order in a request with these headers, and another request behind it.
fn order(headers: &str, body: &str) -> String {
    format!("POST /orders HTTP/1.1\r\n{JSON}{headers}\r\n{body}{SECOND}")
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_end_with_a_client_error_alone() -> Result<()> {
    let host = TestEnv::shipped(AMPLE_STOCK)?.start().await?;
    let close = "host: localhost\r\nconnection: close\r\n";
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let cases = [
        ("two lengths", order("content-length: 2\r\ncontent-length: 3\r\n", "{}")),
        ("a length that is none", order("content-length: +2\r\n", "{}")),
        ("an unknown encoding", order("transfer-encoding: xchunked\r\n", "0\r\n\r\n")),
        ("chunks that are not last", order("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("a huge chunk", order("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}")),
        ("a chunk without a size", order("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n")),
        ("a folded header", get("/health", &format!("{close}x-a: b\r\n c\r\n"))),
        ("a NUL in a header", get("/health", &format!("{close}x-a: \0\r\n"))),
        ("a space before a colon", get("/health", &format!("{close}x-a : b\r\n"))),
        ("many headers", get("/health", &format!("{close}{many}"))),
        ("a large header", get("/health", &format!("{close}x-a: {}\r\n", "y".repeat(1 << 20)))),
        ("a long path", get(&format!("/orders/{}", "y".repeat(100_000)), close)),
        ("another folder", get("/docs/../../../../etc/passwd", close)),
        ("another folder, encoded", get("/docs/%2e%2e/%2e%2e/%2e%2e/etc/passwd", close)),
        ("a proxy request", format!("CONNECT 127.0.0.1:5432 HTTP/1.1\r\n{close}\r\n")),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("a handshake", "\u{16}\u{3}\u{1}\0\u{7f}".repeat(20)),
        (
            "a large body",
            format!(
                "POST /orders HTTP/1.1\r\n{JSON}connection: close\r\ncontent-length: 100000000\r\n\r\n{}",
                "x".repeat(2_000_000)
            ),
        ),
        ("deep JSON", {
            let body = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
            let length = body.len();
            format!(
                "POST /orders HTTP/1.1\r\n{JSON}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        }),
    ];
    for (name, sent) in cases {
        let text = answer(&host.client, sent.as_bytes()).await?;
        let found = statuses(&text);
        assert!(found.len() <= 1, "{name}: {found:?}");
        assert!(found.iter().all(|status| status.starts_with('4')), "{name}: {found:?}");
        assert!(!text.contains("root:"), "{name}: {text}");
    }
    // Requests that wait for each other are answered one after the other.
    let pipelined = SECOND.repeat(999) + &get("/health", close);
    assert_eq!(statuses(&answer(&host.client, pipelined.as_bytes()).await?), ["200"; 1_000]);
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("o", "ready").await?;
    host.stop().await
}
