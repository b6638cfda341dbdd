//! Talks to a running host. An answer that is a problem document becomes one line.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

/// Where the host is.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The host's API.
    #[arg(long, env = "POSTRIDER_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
}

/// The host does not answer: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("no host answers at {url} ({reason}): start one with `postrider serve`, or give --url")]
pub(crate) struct Unreachable {
    url: String,
    reason: String,
}

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A live stream says something at least this often.
const SILENCE_MAX: Duration = Duration::from_mins(1);

impl Target {
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// A path of any names, and a query of any values.
    pub(crate) async fn ask(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value> {
        self.get(&place(path, query)?).await
    }

    /// An answer that is read bit by bit, for as long as it takes.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let client = reqwest::Client::builder()
            .connect_timeout(TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .build()?;
        let request = headers.iter().fold(client.get(self.at(path)), |request, (name, value)| {
            request.header(*name, *value)
        });
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(&response.json().await?))
    }

    /// A body of any kind.
    pub(crate) async fn post_body(
        &self,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Value> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let request = headers.iter().fold(client.post(self.at(path)), |request, (name, value)| {
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
        let mut request = client.request(method, self.at(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if status.is_success() { Ok(answer) } else { Err(refused(&answer)) }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Unreachable {
        let reason = if error.is_timeout() { "time-out" } else { "no connection" };
        Unreachable { url: self.url.clone(), reason: reason.into() }
    }
}

/// A path of any names with a query of any values, both encoded.
pub(crate) fn place(path: &[&str], query: &[(&str, &str)]) -> Result<String> {
    let mut url = reqwest::Url::parse("http://host/")?;
    // Only a URL without a host has no path.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url.query_pairs_mut().extend_pairs(query);
    Ok(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

/// A problem document as one line.
fn refused(answer: &Value) -> anyhow::Error {
    let errors = answer["errors"].as_array().into_iter().flatten();
    let errors: Vec<String> = errors
        .map(|error| format!("{} {}", text(&error["pointer"]), text(&error["detail"])))
        .collect();
    let detail = if errors.is_empty() { text(&answer["detail"]) } else { errors.join("; ") };
    anyhow!("{}: {detail}", text(&answer["title"]))
}

/// A string without its quotes; anything else as JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Reads JSON from a file, or from standard input for `-`.
pub(crate) fn read_json(place: &str) -> Result<Value> {
    let bytes = match place {
        "-" => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
            bytes
        }
        file => std::fs::read(file).map_err(|error| anyhow::anyhow!("{file}: {error}"))?,
    };
    serde_json::from_slice(&bytes).map_err(|error| anyhow::anyhow!("{place}: not JSON: {error}"))
}
