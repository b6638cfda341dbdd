//! External calls of a stage: what the operator granted, and how a call reaches nothing else.
//!
//! The guarantee: a call is matched with the grants by scheme, host, port and method before any
//! network access. The host resolves the name itself, drops every address that is not public, and
//! connects to the address that it checked; the name is only used for TLS and `Host`, so resolving
//! it differently later gains nothing. Redirects are not followed: the stage receives them, and its
//! next call is checked like the first. Bounds: time and bodies of a call, calls of one attempt,
//! concurrent calls and calls per second of a stage on this host. Costs: a connection per call.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

mod address;
#[cfg(feature = "wasm")]
mod call;
#[cfg(feature = "wasm")]
mod calls;
#[cfg(feature = "wasm")]
mod dial;
#[cfg(feature = "wasm")]
mod mock;
mod rule;
#[cfg(all(test, feature = "wasm"))]
mod tests;

#[cfg(feature = "wasm")]
pub use call::Patience;
#[cfg(feature = "wasm")]
pub use calls::Egress;
#[cfg(feature = "wasm")]
pub use mock::HttpMock;

use self::rule::Rule;

/// The external services that a stage may call. None by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// The services; set per stage, never in the defaults.
    pub http: Vec<HttpGrant>,
    /// Longest call, from the name lookup to the last byte of the response; never longer than the
    /// rest of the attempt.
    pub http_timeout_ms: u64,
    /// Largest body of a request and of a response.
    pub http_body_max_bytes: usize,
    /// Most concurrent calls on this host; further ones wait for a free slot.
    pub http_concurrency: u32,
    /// Most calls of one attempt.
    pub http_calls_max: u32,
    /// Most calls per second on this host; none: no limit.
    pub http_rate_per_s: Option<u32>,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            http: Vec::new(),
            http_timeout_ms: 10_000,
            http_body_max_bytes: 1 << 20,
            http_concurrency: 16,
            http_calls_max: 10,
            http_rate_per_s: None,
        }
    }
}

/// One service that a stage may call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpGrant {
    /// `https` or `http`.
    pub scheme: String,
    /// A name, an address, or `*.example.com` for names one label longer.
    pub host: String,
    /// Default: 443 or 80, by the scheme.
    pub port: Option<u16>,
    /// Methods, in capitals.
    pub methods: Vec<String>,
    /// Whether the host may be on this machine or in a private network.
    pub allow_private: bool,
}

impl Default for HttpGrant {
    fn default() -> Self {
        Self {
            scheme: "https".into(),
            host: String::new(),
            port: None,
            methods: Vec::new(),
            allow_private: false,
        }
    }
}

impl std::fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}://{}", self.methods.join(","), self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(if self.allow_private { " (private addresses allowed)" } else { "" })
    }
}

impl Grants {
    /// Reports every problem, each with its key below `key`.
    pub(crate) fn validate(&self, key: &str, problems: &mut Vec<String>) {
        for (place, grant) in self.http.iter().enumerate() {
            let wrong = Rule::parse(grant).err().unwrap_or_default();
            problems.extend(
                wrong
                    .into_iter()
                    .map(|(field, problem)| format!("{key}.http[{place}].{field}: {problem}")),
            );
        }
        for (name, value) in [
            ("http_timeout_ms", self.http_timeout_ms),
            ("http_body_max_bytes", self.http_body_max_bytes as u64),
            ("http_concurrency", u64::from(self.http_concurrency)),
            ("http_calls_max", u64::from(self.http_calls_max)),
            ("http_rate_per_s", u64::from(self.http_rate_per_s.unwrap_or(1))),
        ] {
            if value == 0 {
                problems.push(format!("{key}.{name}: must be at least 1"));
            }
        }
        if self.http_concurrency > CONCURRENCY_MAX {
            problems.push(format!(
                "{key}.http_concurrency: {} is more than {CONCURRENCY_MAX}",
                self.http_concurrency
            ));
        }
    }
}

/// Largest `http_concurrency`: each call may hold a thread while its name is resolved.
const CONCURRENCY_MAX: u32 = 256;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No grant covers it.
    #[error("`{0}` is not granted")]
    NotGranted(String),
    /// The stage has no grants, or the call is in `describe`.
    #[error("external calls are not allowed here")]
    Nothing,
    /// Neither scheme and host, nor a path.
    #[error("invalid URL: {0}")]
    Address(&'static str),
    /// The attempt made too many calls.
    #[error("the attempt made more than {0} calls")]
    TooManyCalls(u32),
    /// The name resolves only to addresses that the grant does not cover.
    #[error("`{target}` resolves to {address}, which is {kind}: the grant lacks allow_private")]
    Prohibited {
        /// What was called.
        target: String,
        /// An address of it.
        address: IpAddr,
        /// What is special about the address.
        kind: &'static str,
    },
    /// Too many concurrent calls or calls per second for the time left.
    #[error("timed out waiting for a free slot: {0} is reached")]
    Busy(&'static str),
    /// The name does not resolve.
    #[error("the name cannot be resolved")]
    Name(#[source] std::io::Error),
    /// The service does not accept connections.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// The certificate is not trusted, or the service does not speak TLS.
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    /// The call took too long.
    #[error("timed out while {0}")]
    TimedOut(Phase),
    /// The request's body is larger than allowed.
    #[error("the request body has more than {0} bytes")]
    RequestTooLarge(usize),
    /// The response body is larger than allowed.
    #[error("the response body has more than {0} bytes")]
    AnswerTooLarge(usize),
    /// The response is not HTTP, or incomplete.
    #[cfg(feature = "wasm")]
    #[error("the HTTP exchange failed")]
    Http(#[source] hyper::Error),
}

impl CallError {
    /// What went wrong in a word or two, for metrics and spans.
    #[cfg(feature = "wasm")]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotGranted(_) | Self::Nothing => "not_granted",
            Self::Address(_) => "invalid_url",
            Self::TooManyCalls(_) => "too_many_calls",
            Self::Prohibited { .. } => "prohibited_address",
            Self::Busy(_) => "no_slot",
            Self::Name(_) => "name_not_resolved",
            Self::Connect(_) => "cannot_connect",
            Self::Tls(_) => "tls_handshake",
            Self::TimedOut(_) => "timeout",
            Self::RequestTooLarge(_) => "request_too_large",
            Self::AnswerTooLarge(_) => "answer_too_large",
            Self::Http(_) => "http_exchange",
        }
    }

    /// Whether this host refused the call, rather than the network failing it.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Name(_) | Self::Connect(_) | Self::Tls(_) | Self::TimedOut(_) => false,
            #[cfg(feature = "wasm")]
            Self::Http(_) => false,
            Self::NotGranted(_)
            | Self::Nothing
            | Self::Address(_)
            | Self::TooManyCalls(_)
            | Self::Prohibited { .. }
            | Self::Busy(_)
            | Self::RequestTooLarge(_)
            | Self::AnswerTooLarge(_) => true,
        }
    }
}

/// What a call was doing when it timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Resolving the name.
    Name,
    /// Connecting, TLS included.
    Connect,
    /// Waiting for the head of the response.
    Answer,
    /// Receiving the response body.
    Body,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Name => "resolving the name",
            Self::Connect => "connecting",
            Self::Answer => "waiting for the response",
            Self::Body => "receiving the response",
        })
    }
}

/// A destination that a grant covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whether it uses TLS.
    secure: bool,
    /// In lower case, without brackets or a final dot.
    host: String,
    port: u16,
    allow_private: bool,
    /// As the stage wrote it: errors show it in this form, so that secrets in it are found and
    /// masked.
    written: String,
}
