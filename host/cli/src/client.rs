//! A client of a running host's API. A problem document becomes a one-line error.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

/// The host to talk to.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Base URL of the host's API.
    #[arg(long, env = "POSTRIDER_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
}

/// The host cannot be reached: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach a host at {url} ({reason}): start one with `postrider serve`, or set --url")]
pub(crate) struct Unreachable {
    url: String,
    reason: String,
}

/// Maximum duration of a request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum silence of a live stream; the host sends a comment every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);

impl Target {
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// Like `get`, but encodes the path segments and query values.
    pub(crate) async fn query(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        self.get(&path_and_query(path, query)?).await
    }

    /// Opens a response that the caller reads in chunks, without a limit on its duration.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let client = reqwest::Client::builder()
            .connect_timeout(TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .build()?;
        let request =
            headers.iter().fold(client.get(self.url_of(path)), |request, (name, value)| {
                request.header(*name, *value)
            });
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(problem(&response.json().await?))
    }

    pub(crate) async fn post_body(
        &self,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Value> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let request =
            headers.iter().fold(client.post(self.url_of(path)), |request, (name, value)| {
                request.header(*name, value)
            });
        self.answer(request.body(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let mut request = client.request(method, self.url_of(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if status.is_success() { Ok(answer) } else { Err(problem(&answer)) }
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Unreachable {
        let reason = if error.is_timeout() { "timed out" } else { "connection failed" };
        Unreachable { url: self.url.clone(), reason: reason.into() }
    }
}

/// A path and query with every segment and value percent-encoded.
pub(crate) fn path_and_query(path: &[&str], query: &[(&str, &str)]) -> Result<String> {
    let mut url = reqwest::Url::parse("http://host/")?;
    // Only a URL without a host has no path.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url.query_pairs_mut().extend_pairs(query);
    Ok(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

/// A problem document as an error of one line.
fn problem(answer: &Value) -> anyhow::Error {
    let errors = answer["errors"].as_array().into_iter().flatten();
    let errors: Vec<String> = errors
        .map(|error| format!("{} {}", text(&error["pointer"]), text(&error["detail"])))
        .collect();
    let detail = if errors.is_empty() { text(&answer["detail"]) } else { errors.join("; ") };
    anyhow!("{}: {detail}", text(&answer["title"]))
}

/// A JSON string without its quotes; any other value as JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Reads JSON from a file, or from standard input for `-`.
pub(crate) fn read_json(path: &str) -> Result<Value> {
    let bytes = match path {
        "-" => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
            bytes
        }
        file => std::fs::read(file).map_err(|error| anyhow!("{file}: {error}"))?,
    };
    serde_json::from_slice(&bytes).map_err(|error| anyhow!("{path}: invalid JSON: {error}"))
}
