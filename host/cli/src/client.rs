//! A client of a running host's API. A problem document becomes a one-line error.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{ClientBuilder, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::scope::Scope;
use postrider::Config;
use postrider::internals::{ClientFiles, NamedFile, client_config, explain};

/// The host to talk to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Base URL of the host's API [default: the address in `http.listen` of the configuration].
    #[arg(long, env = "POSTRIDER_URL", value_parser = base_url)]
    url: Option<String>,
    /// Certificates of the authorities of an `https` host (PEM) [default: those of the machine].
    #[arg(long, value_name = "FILE", env = "POSTRIDER_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Certificate to show to the host (PEM).
    #[arg(long, value_name = "FILE", env = "POSTRIDER_CERT_FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Key of that certificate (PEM).
    #[arg(long, value_name = "FILE", env = "POSTRIDER_KEY_FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// File with the API key or JSON Web Token to send [default: that of the environment].
    #[arg(long, value_name = "FILE", env = "POSTRIDER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// The variable with the token, which no option has: other users can read the options of a program.
const TOKEN_VARIABLE: &str = "POSTRIDER_TOKEN";

/// Where a host listens unless its configuration says otherwise.
const USUAL_URL: &str = "http://127.0.0.1:8000";
/// What the command line names.
static SCOPE: OnceLock<Scope> = OnceLock::new();
static CONFIGURED_URL: OnceLock<String> = OnceLock::new();

/// Notes the namespace to talk to, and the configuration for commands without --url.
pub(crate) fn note_scope(scope: &Scope) {
    let _ = SCOPE.set(scope.clone());
}

/// Below which path the API of the chosen namespace is; empty for that of the root.
pub(crate) fn namespace_path() -> String {
    let namespace = SCOPE.get().and_then(|scope| scope.namespace.as_deref());
    namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default()
}

/// Where the host of the present configuration listens. An invalid configuration is of no interest
/// here: `config check` reports it.
fn configured_url() -> &'static str {
    CONFIGURED_URL.get_or_init(|| {
        let file = SCOPE.get().and_then(|scope| scope.config.as_deref());
        let config = Config::check(file).map(|(config, _)| config).unwrap_or_default();
        let scheme = if config.http.tls.is_on() { "https" } else { "http" };
        url_of_listen(scheme, &config.http.listen).unwrap_or_else(|| USUAL_URL.to_owned())
    })
}

/// The URL under which a host that listens on this address is reached from its own machine.
fn url_of_listen(scheme: &str, listen: &str) -> Option<String> {
    let (host, port) = listen.rsplit_once(':')?;
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    // Port 0 is any free one.
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    Some(format!("{scheme}://{host}:{port}"))
}

/// A base URL; `http://` may be left out.
pub(crate) fn base_url(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let parsed = reqwest::Url::parse(&url)
        .map_err(|error| format!("expected a URL such as {USUAL_URL}: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(format!("expected a URL such as {USUAL_URL}"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("expected a base URL, without `?` and `#`".to_owned());
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// The host cannot be reached: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach a host at {url} ({reason}): start one with `postrider serve`, or set --url")]
pub(crate) struct Unreachable {
    url: String,
    reason: String,
}

/// Something answers that is not a Postrider host: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{url} is not a Postrider host: {reason}; set --url")]
pub(crate) struct NotAHost {
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
        let client = self.client()?.connect_timeout(TIMEOUT).read_timeout(SILENCE_MAX).build()?;
        let request =
            headers.iter().fold(client.get(self.url_of(path)), |request, (name, value)| {
                request.header(*name, *value)
            });
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() && !is_html(&response) {
            return Ok(response);
        }
        let (_, answer) = self.read(response).await?;
        Err(Problem(answer).into())
    }

    pub(crate) async fn post_body(
        &self,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Value> {
        let client = self.client()?.timeout(TIMEOUT).build()?;
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

    /// A client that sends the token, and trusts what the options name.
    fn client(&self) -> Result<ClientBuilder> {
        let builder = with_token(reqwest::Client::builder(), self.token_file.as_deref())?;
        let named = |option: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| NamedFile::new(option, path))
        };
        let identity = named("--cert-file", &self.cert_file);
        let files = ClientFiles {
            ca: named("--ca-file", &self.ca_file),
            identity: identity.zip(named("--key-file", &self.key_file)),
        };
        // Reading what the machine trusts takes time.
        if files == ClientFiles::default() && !self.url().starts_with("https:") {
            return Ok(builder);
        }
        let config = client_config(&files).map_err(|problems| anyhow!(problems.join("; ")))?;
        Ok(builder.tls_backend_preconfigured(Arc::unwrap_or_clone(config)))
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let client = self.client()?.timeout(TIMEOUT).build()?;
        let mut request = client.request(method, self.url_of(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, answer) = self.read(response).await?;
        if status.is_success() { Ok(answer) } else { Err(Problem(answer).into()) }
    }

    /// Reads a JSON answer. Anything else does not come from a host.
    async fn read(&self, response: Response) -> Result<(StatusCode, Value)> {
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("no type").to_owned();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        // A host answers errors with problem documents, so other errors come from a proxy.
        let answer = serde_json::from_slice::<Value>(&bytes).ok();
        let is_problem = |answer: &Value| answer["title"].is_string();
        match answer {
            Some(answer) if status.is_success() || is_problem(&answer) => Ok((status, answer)),
            _ => {
                let reason = format!("it answers {status} with {kind}");
                Err(NotAHost { url: self.url().to_owned(), reason }.into())
            }
        }
    }

    fn url(&self) -> &str {
        self.url.as_deref().unwrap_or_else(|| configured_url())
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}{}{path}", self.url(), namespace_path())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Unreachable {
        if let Some(reason) = explain(error) {
            return Unreachable { url: self.url().to_owned(), reason };
        }
        let mut reason =
            if error.is_timeout() { "timed out" } else { "connection failed" }.to_owned();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.source().is_none() {
                reason = format!("{reason}: {cause}");
            }
            source = cause.source();
        }
        Unreachable { url: self.url().to_owned(), reason }
    }
}

fn is_html(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/html"))
}

/// Lets a client send the token in a file, or else the one in the environment, if there is one.
fn with_token(builder: ClientBuilder, file: Option<&Path>) -> Result<ClientBuilder> {
    let headers = authorization(file)?.into_iter().map(|value| (AUTHORIZATION, value));
    Ok(builder.default_headers(headers.collect()))
}

/// The header with the token in a file, or else with the one in the environment, if there is one.
pub(crate) fn authorization(file: Option<&Path>) -> Result<Option<HeaderValue>> {
    let token = match file {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .with_context(|| format!("--token-file: {}", file.display()))?,
        ),
        None => std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()),
    };
    let Some(token) = token else { return Ok(None) };
    let source = if file.is_some() { "--token-file" } else { TOKEN_VARIABLE };
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| anyhow!("{source}: is not a token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A path and query with every segment and value percent-encoded.
pub(crate) fn path_and_query(path: &[&str], query: &[(&str, &str)]) -> Result<String> {
    let mut url = reqwest::Url::parse("http://host/")?;
    // A URL would resolve these, so that the request meant another resource.
    if let Some(bad) = path.iter().find(|segment| ["", ".", ".."].contains(segment)) {
        bail!("`{bad}` is not an id or a name");
    }
    // Only a URL without a host has no path.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    if query.is_empty() {
        return Ok(url.path().to_owned());
    }
    url.query_pairs_mut().extend_pairs(query);
    Ok(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

/// A path of these segments, encoded.
pub(crate) fn path(segments: &[&str]) -> Result<String> {
    path_and_query(segments, &[])
}

/// A problem document as an error of one line.
#[derive(Debug)]
pub(crate) struct Problem(Value);

impl std::error::Error for Problem {}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", text(&self.0["title"]), self.detail())
    }
}

impl Problem {
    /// Whether the host refuses who asks: another attempt with the same token is of no use.
    pub(crate) fn refuses_credential(&self) -> bool {
        matches!(self.0["status"].as_u64(), Some(401 | 403))
    }

    /// The problems of a body, with their JSON pointers.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (String, String)> {
        let errors = self.0["errors"].as_array().into_iter().flatten();
        errors.map(|error| (text(&error["pointer"]), text(&error["detail"])))
    }

    fn detail(&self) -> String {
        let errors: Vec<String> =
            self.errors().map(|(pointer, detail)| format!("{pointer} {detail}")).collect();
        if errors.is_empty() { text(&self.0["detail"]) } else { errors.join("; ") }
    }
}

/// A JSON string without its quotes; any other value as JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// A text without the byte order mark that some editors write.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
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
    serde_json::from_slice(without_bom(&bytes))
        .map_err(|error| anyhow!("{path}: invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_its_segments_name() {
        assert_eq!(path(&["orders", "a/b ?", "cancel"]).unwrap(), "/orders/a%2Fb%20%3F/cancel");
        assert_eq!(path_and_query(&["events"], &[("type", "a+b")]).unwrap(), "/events?type=a%2Bb");
        for segment in ["", ".", ".."] {
            let error = path(&["orders", segment]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{segment}` is not")), "{error}");
        }
    }

    #[test]
    fn the_scheme_of_an_address_may_be_left_out() {
        for (text, expected) in [
            ("localhost:8000", "http://localhost:8000"),
            ("127.0.0.1:1/", "http://127.0.0.1:1"),
            ("[::1]:8000", "http://[::1]:8000"),
            ("https://orders.example/base/", "https://orders.example/base"),
        ] {
            assert_eq!(base_url(text).as_deref(), Ok(expected));
        }
        for invalid in ["", "http://", "ftp://x", "localhost:port", "http://x/?a=1", "a b"] {
            assert!(base_url(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn the_address_of_the_configuration_is_reached_from_its_machine() {
        for (listen, expected) in [
            ("127.0.0.1:18556", Some("http://127.0.0.1:18556")),
            ("0.0.0.0:80", Some("http://127.0.0.1:80")),
            ("[::]:80", Some("http://[::1]:80")),
            ("127.0.0.1:0", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(url_of_listen("http", listen).as_deref(), expected, "{listen}");
        }
    }
}
