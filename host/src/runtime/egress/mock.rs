//! Answers instead of services, for fixtures and dry runs: calls are admitted as always, and then
//! nothing leaves this process.

use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::calls::Egress;
use super::dial::{Dialer, Wire};
use super::{Grants, HttpGrant, Target};

/// Largest request that is read, and the buffer between a call and its mock.
const REQUEST_MAX_BYTES: usize = 2 << 20;

/// The answer to calls of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMock {
    /// In capitals.
    pub method: String,
    /// Absolute; without a query it stands for every query.
    pub url: String,
    /// Of the answer.
    pub status: u16,
    /// Of the answer.
    pub headers: Vec<(String, String)>,
    /// Of the answer.
    pub body: Bytes,
}

impl HttpMock {
    fn grant(&self) -> Option<HttpGrant> {
        let uri: Uri = self.url.parse().ok()?;
        Some(HttpGrant {
            scheme: uri.scheme_str()?.to_owned(),
            host: uri.host()?.to_owned(),
            port: uri.port_u16(),
            methods: vec![self.method.clone()],
            allow_private: true,
        })
    }

    /// Why it can answer nothing; none if it can.
    pub fn problem(&self) -> Option<String> {
        let Some(grant) = self.grant() else {
            return Some(format!("`{}` is not an absolute URL", self.url));
        };
        let rule = super::rule::Rule::parse(&grant);
        let problems =
            rule.err()?.into_iter().map(|(field, problem)| format!("{field}: {problem}"));
        Some(problems.collect::<Vec<_>>().join("; "))
    }

    fn answers(&self, method: &str, url: &str) -> bool {
        let without_query = url.split('?').next().unwrap_or(url);
        let wanted = [url, without_query].map(|url| url.trim_end_matches('/'));
        self.method == method && wanted.contains(&self.url.trim_end_matches('/'))
    }
}

impl Egress {
    /// Calls are admitted by `grants`, or by the mocks where nothing is granted, and answered by
    /// the mocks.
    pub fn mocked(grants: &Grants, mocks: Vec<HttpMock>) -> Arc<Self> {
        let mut grants = grants.clone();
        if grants.http.is_empty() {
            grants.http = mocks.iter().filter_map(HttpMock::grant).collect();
        }
        Arc::new(Self::with_dialer(&grants, Dialer::mocked(mocks)))
    }
}

/// A connection that a mock answers.
pub(super) fn connect(target: &Target, mocks: &Arc<Vec<HttpMock>>) -> Box<dyn Wire> {
    let (near, far) = tokio::io::duplex(REQUEST_MAX_BYTES);
    let (mocks, base) = (Arc::clone(mocks), target.written.clone());
    tokio::spawn(async move { _ = serve(far, &base, &mocks).await });
    Box::new(near)
}

async fn serve(mut wire: DuplexStream, base: &str, mocks: &[HttpMock]) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if wire.read_buf(&mut request).await? == 0 || request.len() > REQUEST_MAX_BYTES {
            return Ok(());
        }
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        if is_complete(&head, &request[end + 4..]) {
            break head;
        }
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let url = format!("{base}{path}");
    let answer = match mocks.iter().find(|mock| mock.answers(method, &url)) {
        Some(mock) => response(mock.status, &mock.headers, &mock.body),
        None => {
            response(501, &[], format!("the fixture has no answer to {method} {url}").as_bytes())
        }
    };
    wire.write_all(&answer).await?;
    wire.shutdown().await
}

/// Whether the body of a request has arrived.
fn is_complete(head: &str, body: &[u8]) -> bool {
    let header = |name: &str| {
        head.lines().filter_map(|line| line.split_once(':')).find_map(|(key, value)| {
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    if header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        return body.ends_with(b"0\r\n\r\n");
    }
    let expected = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    body.len() >= expected
}

fn response(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut head = format!("HTTP/1.1 {status} \r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("connection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}
