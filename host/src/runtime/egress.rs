//! Calls of a stage to the outside: what the operator granted, and how a call is made so that
//! nothing else is reached.
//!
//! What carries the guarantee: a call is matched with the grants by scheme, host, port and method
//! before the network is asked anything. The host looks the name up itself, drops every address
//! that is not public, and connects to the very address that it checked; the name serves TLS and
//! `Host` only, so a name that is looked up differently a moment later gains nothing. Redirects are
//! not followed: the stage sees them, and its next call is checked like the first. Bounds: time and
//! bodies of a call, calls of one try, calls at once and per second of a stage on this host. What
//! it costs: a connection for each call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

mod address;
mod call;
mod dial;
mod rule;
#[cfg(test)]
mod tests;

pub use call::{Driver, Patience, Reply};

use self::dial::Dialer;
use self::rule::Rule;
use crate::stage::rate_limit::{self, RateLimit};

/// What a stage may reach outside. Nothing by default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Where it may call. Given stage by stage, never to all.
    pub http: Vec<HttpGrant>,
    /// Longest call, from the lookup of the name to the last byte of the answer; never longer than
    /// the try has left.
    pub http_timeout_ms: u64,
    /// Largest body, of a request and of an answer.
    pub http_body_max_bytes: usize,
    /// Calls at once on this host; more wait for their turn.
    pub http_concurrency: u32,
    /// Calls of one try.
    pub http_calls_max: u32,
    /// Calls per second on this host; none: as fast as it goes.
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

/// One place that a stage may call.
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
    /// The host may be in this machine or in a private network.
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
    /// Everything that is wrong, each with its place below `key`.
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

/// Most calls at once that a stage may be given: each may hold a thread while its name is looked
/// up.
const CONCURRENCY_MAX: u32 = 256;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No grant covers it.
    #[error("`{0}` is not granted")]
    NotGranted(String),
    /// The stage has no grant at all, or is only being asked to describe itself.
    #[error("no call is allowed here")]
    Nothing,
    /// Neither scheme and host, nor a path.
    #[error("the address of the call is unusable: {0}")]
    Address(&'static str),
    /// One try made too many calls.
    #[error("the try made more than {0} calls")]
    TooManyCalls(u32),
    /// The name leads only to addresses that the grant does not cover.
    #[error("`{target}` is at {address}, which is {kind}: the grant does not say allow_private")]
    Prohibited {
        /// What was called.
        target: String,
        /// An address of it.
        address: IpAddr,
        /// What is special about the address.
        kind: &'static str,
    },
    /// Too many calls at once or per second, and no turn came in time.
    #[error("no turn came in time: {0} is reached")]
    Busy(&'static str),
    /// The name leads nowhere.
    #[error("the name cannot be resolved")]
    Name(#[source] std::io::Error),
    /// Nobody listens there.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// The other side could not prove who it is, or does not speak TLS.
    #[error("no TLS connection")]
    Tls(#[source] std::io::Error),
    /// The time for it was over.
    #[error("the time was over while {0}")]
    TimedOut(Phase),
    /// The request's body is larger than allowed.
    #[error("the request's body has more than {0} bytes")]
    RequestTooLarge(usize),
    /// The answer's body is larger than allowed.
    #[error("the answer's body has more than {0} bytes")]
    AnswerTooLarge(usize),
    /// What came back is no HTTP, or not all of it.
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
}

impl CallError {
    /// Whether this host did not let the call happen, rather than the network.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Name(_) | Self::Connect(_) | Self::Tls(_) | Self::TimedOut(_) | Self::Http(_) => {
                false
            }
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

/// Where a call was when its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its name was being looked up.
    Name,
    /// It was connecting, TLS included.
    Connect,
    /// It waited for the head of the answer.
    Answer,
    /// It received the answer's body.
    Body,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Name => "looking the name up",
            Self::Connect => "connecting",
            Self::Answer => "waiting for an answer",
            Self::Body => "receiving the answer",
        })
    }
}

/// A destination that a grant covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// TLS or not.
    secure: bool,
    /// In lower case, without brackets or a final dot.
    host: String,
    port: u16,
    allow_private: bool,
    /// As the stage wrote it: what is said of it may hold a secret, which is found only so.
    written: String,
}

/// The calls of one stage on this host.
pub struct Egress {
    rules: Vec<Rule>,
    timeout: Duration,
    body_max_bytes: usize,
    calls_max: u32,
    slots: Arc<Semaphore>,
    rate: Option<RateLimit>,
    dialer: Dialer,
}

impl Egress {
    /// None when nothing is granted. The grants were checked with the configuration; what is wrong
    /// with one makes it grant nothing.
    pub fn new(grants: &Grants) -> Option<Arc<Self>> {
        let secure = grants.http.iter().any(|grant| grant.scheme == "https");
        (!grants.http.is_empty())
            .then(|| Arc::new(Self::with_dialer(grants, Dialer::system(secure))))
    }

    fn with_dialer(grants: &Grants, dialer: Dialer) -> Self {
        Self {
            rules: grants.http.iter().filter_map(|grant| Rule::parse(grant).ok()).collect(),
            timeout: Duration::from_millis(grants.http_timeout_ms),
            body_max_bytes: grants.http_body_max_bytes,
            calls_max: grants.http_calls_max,
            slots: Arc::new(Semaphore::new(grants.http_concurrency as usize)),
            rate: grants.http_rate_per_s.and_then(rate_limit::per_second),
            dialer,
        }
    }

    /// Where a call goes, when it is granted as the call number `number` (from 1) of its try. Asks
    /// nobody.
    pub fn admit(&self, request: &Parts, number: u32) -> Result<Target, CallError> {
        if number > self.calls_max {
            return Err(CallError::TooManyCalls(self.calls_max));
        }
        let mut target = Target::of(&request.uri)?;
        let mut covering =
            self.rules.iter().filter(|rule| rule.covers(&target, &request.method)).peekable();
        if covering.peek().is_none() {
            return Err(CallError::NotGranted(format!("{} {}", request.method, target.written)));
        }
        target.allow_private = covering.any(|rule| rule.allow_private);
        Ok(target)
    }
}
