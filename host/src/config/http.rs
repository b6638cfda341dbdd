//! The settings of the API.

use serde::{Deserialize, Serialize};

use super::HttpTls;

/// The API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port.
    pub listen: String,
    /// Largest request body.
    pub body_max_bytes: usize,
    /// Most bytes of the bodies of requests in progress, with what their JSON needs once it is parsed;
    /// further ones are refused with 503.
    pub bodies_max_bytes: u64,
    /// Longest time for a request.
    pub request_timeout_ms: u64,
    /// Most requests in flight; further ones are refused with 503.
    pub concurrency_max: usize,
    /// Most live streams and exports in flight.
    pub streams_max: usize,
    /// Most connections of all namespaces. Fewer when the limit on open files is low: store, broker
    /// and health checks keep a share of it.
    pub connections_max: usize,
    /// Longest time for the handshake and the head of a request. Slower clients are cut off.
    pub head_timeout_ms: u64,
    /// How long a connection may wait for its next request.
    pub idle_timeout_ms: u64,
    /// How long a client may take nothing of its answer. Then it is cut off.
    pub stall_timeout_ms: u64,
    /// Names under which browsers may reach the host, such as `orders.example.com`; `*` for every name.
    /// Empty: any name if `auth.mode` is `tokens`, otherwise addresses and names that no outsider can
    /// register.
    pub allowed_hosts: Vec<String>,
    /// How many requests a client may send.
    pub rate_limits: RateLimits,
    /// Which pages of other origins may use the API.
    pub cors: CorsSettings,
    /// What the web console shows beside the data of the host.
    pub console: ConsoleSettings,
    /// Encryption; without a certificate there is none.
    pub tls: HttpTls,
}

/// Which pages of other origins may use the API from a browser.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsSettings {
    /// Their origins, such as `https://dashboard.example`, or `*` for every origin. Empty: none.
    pub allowed_origins: Vec<String>,
}

/// What the web console shows beside the data of the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleSettings {
    /// Where the tracing system shows a trace, with `{trace_id}` in the place of its id:
    /// `https://jaeger.example/trace/{trace_id}`. None: the console shows the id without a link.
    pub trace_url: Option<String>,
}

/// How many requests a client may send; further ones are refused with 429.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names say what is counted")]
pub struct RateLimits {
    /// Requests per second of an address, or of the 64-bit prefix of an IPv6 address, to all namespaces; 0:
    /// no limit. They count before their credentials are checked.
    pub per_address_per_s: u32,
    /// Requests that an address may send together; 0: as many as in a second.
    pub per_address_burst: u32,
    /// Requests per second of a principal to a namespace; 0: no limit. Without authentication, all requests
    /// are those of one principal.
    pub per_principal_per_s: u32,
    /// Requests that a principal may send together; 0: as many as in a second.
    pub per_principal_burst: u32,
}

/// Highest rate, and largest burst.
const RATE_MAX: u32 = 1_000_000;

impl RateLimits {
    /// Those of a namespace in a process with these settings: principals are its own.
    fn within(self, process: Self) -> Self {
        let Self { per_address_per_s, per_address_burst, .. } = process;
        let Self { per_principal_per_s, per_principal_burst, .. } = self;
        Self { per_address_per_s, per_address_burst, per_principal_per_s, per_principal_burst }
    }

    pub(super) fn find_problems_of_process(&self, problems: &mut Vec<String>) {
        find_problems("per_address", self.per_address_per_s, self.per_address_burst, problems);
    }

    pub(super) fn find_problems(&self, problems: &mut Vec<String>) {
        let (per_s, burst) = (self.per_principal_per_s, self.per_principal_burst);
        find_problems("per_principal", per_s, burst, problems);
    }
}

fn find_problems(of: &str, per_s: u32, burst: u32, problems: &mut Vec<String>) {
    let key = format!("http.rate_limits.{of}");
    for (key, value) in [(format!("{key}_per_s"), per_s), (format!("{key}_burst"), burst)] {
        if value > RATE_MAX {
            problems.push(format!("{key}: {value} must be at most {RATE_MAX}, or 0"));
        }
    }
    if burst > 0 && per_s == 0 {
        problems.push(format!(
            "{key}_burst: {burst} has no effect without {key}_per_s: set it as well, or this to 0"
        ));
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".into(),
            body_max_bytes: 1 << 20,
            bodies_max_bytes: 64 << 20,
            request_timeout_ms: 10_000,
            concurrency_max: 1_024,
            streams_max: 256,
            connections_max: 4_096,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            stall_timeout_ms: 10_000,
            allowed_hosts: Vec::new(),
            rate_limits: RateLimits::default(),
            cors: CorsSettings::default(),
            console: ConsoleSettings::default(),
            tls: HttpTls::default(),
        }
    }
}

impl HttpSettings {
    /// Those of a namespace in a process with these settings: the limits on its requests are its own.
    pub(super) fn within(&self, process: &Self) -> Self {
        // Without `..`: a new setting is decided about here.
        let Self {
            listen,
            connections_max,
            head_timeout_ms,
            idle_timeout_ms,
            stall_timeout_ms,
            allowed_hosts,
            rate_limits,
            cors,
            console,
            tls,
            body_max_bytes: _,
            bodies_max_bytes: _,
            request_timeout_ms: _,
            concurrency_max: _,
            streams_max: _,
        } = process.clone();
        Self {
            listen,
            body_max_bytes: self.body_max_bytes,
            bodies_max_bytes: self.bodies_max_bytes,
            request_timeout_ms: self.request_timeout_ms,
            concurrency_max: self.concurrency_max,
            streams_max: self.streams_max,
            connections_max,
            head_timeout_ms,
            idle_timeout_ms,
            stall_timeout_ms,
            allowed_hosts,
            rate_limits: self.rate_limits.within(rate_limits),
            cors,
            console,
            tls,
        }
    }
}
