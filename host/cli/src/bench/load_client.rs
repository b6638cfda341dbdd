//! The client that makes the load. It does little for a request, because it shares the processors with
//! the host that it measures.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

use crate::client::authorization;
use postrider::internals::{ClientFiles, client_config};

/// Keeps its connections open, and sends JSON.
#[derive(Clone)]
pub(super) struct LoadClient {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
}

impl LoadClient {
    /// A client with the token of the environment, if there is one.
    pub(super) fn new() -> Result<Self> {
        let tls = client_config(&ClientFiles { ca: None, identity: None });
        let tls = tls.map_err(|problems| anyhow!(problems.join("; ")))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(Arc::unwrap_or_clone(tls))
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let json = HeaderValue::from_static("application/json");
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        headers.extend(authorization(None)?.map(|value| (AUTHORIZATION, value)));
        Ok(Self { http: Client::builder(TokioExecutor::new()).build(https), headers })
    }

    /// Posts a body.
    pub(super) async fn post(&self, uri: &Uri, body: Vec<u8>) -> Result<()> {
        self.send(Method::POST, uri, body.into()).await.map(drop)
    }

    /// Reads a document.
    pub(super) async fn get<T: DeserializeOwned>(&self, uri: &Uri) -> Result<T> {
        Ok(serde_json::from_slice(&self.send(Method::GET, uri, Bytes::new()).await?)?)
    }

    async fn send(&self, method: Method, uri: &Uri, body: Bytes) -> Result<Bytes> {
        let mut request = Request::new(Full::new(body));
        request.method_mut().clone_from(&method);
        request.uri_mut().clone_from(uri);
        request.headers_mut().clone_from(&self.headers);
        let response = self.http.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {} returned {status}", uri.path());
        Ok(body)
    }
}
