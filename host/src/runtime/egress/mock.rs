//! Answers instead of services, for fixtures and dry runs: calls are admitted as always, and then
//! nothing leaves this process.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

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
    tokio::spawn(async move {
        let service = service_fn(|request| answer(request, &base, &mocks));
        // A caller that hangs up early is none of the fixture's business.
        _ = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(far), service)
            .await;
    });
    Box::new(near)
}

async fn answer(
    request: Request<Incoming>,
    base: &str,
    mocks: &[HttpMock],
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    // A caller may not read an answer before it has sent its whole request.
    Limited::new(body, REQUEST_MAX_BYTES).collect().await?;
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let url = format!("{base}{path}");
    let Some(mock) = mocks.iter().find(|mock| mock.answers(head.method.as_str(), &url)) else {
        let text = format!("the fixture has no answer to {} {url}", head.method);
        return Ok(Response::builder().status(501).body(text.into())?);
    };
    let mut response = Response::builder().status(mock.status);
    for (name, value) in &mock.headers {
        response = response.header(name, value);
    }
    Ok(response.body(mock.body.clone().into())?)
}
