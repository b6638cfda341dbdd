//! Pages of other origins: refused unless the operator allows their origin, then served, live
//! streams included.

use anyhow::Result;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use crate::support::harness::{RunningHost, TestEnv};

const ORIGIN: &str = "https://dashboard.example";

/// What a browser asks before it posts.
async fn preflight(host: &RunningHost, origin: &str) -> Result<(StatusCode, HeaderMap)> {
    let response = reqwest::Client::new()
        .request(Method::OPTIONS, format!("{}/orders", host.client.url))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,ce-subject")
        .send()
        .await?;
    Ok((response.status(), response.headers().clone()))
}

/// The origin that may read the answer to a GET, and the media type of the answer.
async fn readers(host: &RunningHost, path: &str, accept: &str) -> Result<(String, String)> {
    let request = reqwest::Client::new().get(format!("{}{path}", host.client.url));
    let response = request.header("origin", ORIGIN).header("accept", accept).send().await?;
    let text = |name: &str| -> Result<String> {
        let value = response.headers().get(name).map(|value| value.to_str());
        Ok(value.transpose()?.unwrap_or_default().to_owned())
    };
    Ok((text("access-control-allow-origin")?, text("content-type")?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_origins_are_refused_by_default() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let (status, headers) = preflight(&host, ORIGIN).await?;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")));
    assert_eq!(readers(&host, "/orders", "*/*").await?.0, "");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_origins_may_use_every_route() -> Result<()> {
    let env = TestEnv::empty(&format!("http.cors.allowed_origins = [\"{ORIGIN}\"]\n"))?;
    let host = env.start().await?;
    let (status, headers) = preflight(&host, ORIGIN).await?;
    assert_eq!(
        (status, headers["access-control-allow-origin"].to_str()?),
        (StatusCode::OK, ORIGIN)
    );
    let allowed = headers["access-control-allow-headers"].to_str()?.to_owned();
    assert!(allowed.contains("ce-subject"), "{allowed}");
    assert!(headers["access-control-allow-methods"].to_str()?.contains("POST"));
    let (_, headers) = preflight(&host, "https://other.example").await?;
    assert_eq!(headers.get("access-control-allow-origin"), None);
    // Answers, errors and live streams are marked alike.
    for (path, accept, content_type) in [
        ("/orders", "*/*", "application/json"),
        ("/orders/none", "*/*", "application/problem+json"),
        ("/nowhere", "*/*", "application/problem+json"),
        ("/events", "text/event-stream", "text/event-stream"),
        ("/health", "*/*", "application/json"),
    ] {
        let found = readers(&host, path, accept).await?;
        assert_eq!(found, (ORIGIN.to_owned(), content_type.to_owned()), "{path}");
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_origin_may_be_allowed() -> Result<()> {
    let host = TestEnv::empty("http.cors.allowed_origins = [\"*\"]\n")?.start().await?;
    let (_, headers) = preflight(&host, "https://any.example").await?;
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(headers.get("access-control-allow-credentials"), None);
    host.stop().await
}
