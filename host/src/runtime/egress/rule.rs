//! Matches calls with grants. Pure.

use std::net::IpAddr;

use http::uri::Scheme;
use http::{Method, Uri};

use super::{CallError, HttpGrant, Target};

/// Methods that can be granted; `CONNECT` and `TRACE` cannot.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
/// RFC 1035, section 2.3.4.
const NAME_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

/// A validated grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    secure: bool,
    host: HostPattern,
    port: u16,
    methods: Vec<Method>,
    pub(super) allow_private: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Address(IpAddr),
    Name(String),
    /// Names with exactly one more label in front.
    Below(String),
}

impl Rule {
    /// Validates a grant, or returns every problem with its field.
    pub(super) fn parse(grant: &HttpGrant) -> Result<Self, Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        let secure = match grant.scheme.as_str() {
            "https" => true,
            "http" => false,
            other => {
                problems.push(("scheme", format!("`{other}` must be `https` or `http`")));
                true
            }
        };
        let host = HostPattern::parse(&grant.host)
            .map_err(|problem| problems.push(("host", problem)))
            .ok();
        if grant.port == Some(0) {
            problems.push(("port", "must be at least 1".to_owned()));
        }
        if grant.methods.is_empty() {
            problems.push(("methods", "name at least one method".to_owned()));
        }
        let known = |text: &String| METHODS.iter().find(|method| method.as_str() == text);
        let names = METHODS.map(|method| method.to_string()).join(", ");
        problems.extend(
            grant
                .methods
                .iter()
                .filter(|text| known(text).is_none())
                .map(|text| ("methods", format!("`{text}` must be one of {names}"))),
        );
        let methods = grant.methods.iter().filter_map(known).cloned().collect();
        match host {
            Some(host) if problems.is_empty() => Ok(Self {
                secure,
                host,
                port: grant.port.unwrap_or(default_port(secure)),
                methods,
                allow_private: grant.allow_private,
            }),
            _ => Err(problems),
        }
    }

    pub(super) fn covers(&self, target: &Target, method: &Method) -> bool {
        self.secure == target.secure
            && self.port == target.port
            && self.methods.contains(method)
            && self.host.covers(&target.host)
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let host = plain(text);
        if let Ok(address) = host.parse() {
            return Ok(Self::Address(address));
        }
        let (name, labels_min) =
            host.strip_prefix("*.").map_or((host.as_str(), 1), |below| (below, 2));
        let labels: Vec<&str> = name.split('.').collect();
        let is_label = |label: &&str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !label.is_empty() && label.len() <= LABEL_MAX_BYTES && label.bytes().all(known)
        };
        if name.len() > NAME_MAX_BYTES || !labels.iter().all(is_label) {
            return Err(format!(
                "`{text}` must be a name, an address, or `*.` before a name; without scheme, port or path"
            ));
        }
        if labels.len() < labels_min {
            return Err(format!(
                "`{text}` would cover a whole top-level domain: name at least two labels after `*.`"
            ));
        }
        Ok(if name.len() == host.len() { Self::Name(host) } else { Self::Below(name.to_owned()) })
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Address(address) => host.parse() == Ok(*address),
            Self::Name(name) => name == host,
            Self::Below(parent) => {
                host.split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
                    && host.parse::<IpAddr>().is_err()
            }
        }
    }
}

impl Target {
    /// The name or address that is called.
    #[cfg(feature = "wasm")]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port that is called.
    #[cfg(feature = "wasm")]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The target of a request.
    pub(super) fn of(uri: &Uri) -> Result<Self, CallError> {
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(CallError::Address("its scheme is neither https nor http")),
        };
        let authority = uri.authority().ok_or(CallError::Address("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(CallError::Address("it holds a user name"));
        }
        let host = plain(authority.host());
        if host.is_empty() || host.len() > NAME_MAX_BYTES {
            return Err(CallError::Address("it names no host"));
        }
        let after_host = &authority.as_str()[authority.host().len()..];
        let port = match after_host.strip_prefix(':') {
            None => default_port(secure),
            Some(_) => authority
                .port_u16()
                .filter(|port| *port != 0)
                .ok_or(CallError::Address("its port is no port"))?,
        };
        let written = format!("{}://{authority}", if secure { "https" } else { "http" });
        Ok(Self { secure, host, port, allow_private: false, written })
    }

    /// The `Host` header: with the port only if it is not the scheme's default.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// In lower case, without the brackets of an IPv6 address and without the final dot of a full name.
fn plain(host: &str) -> String {
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    inside.strip_suffix('.').unwrap_or(inside).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(scheme: &str, host: &str, port: Option<u16>) -> HttpGrant {
        let methods = vec!["GET".into(), "POST".into()];
        HttpGrant { scheme: scheme.into(), host: host.into(), port, methods, allow_private: false }
    }

    fn covers(grant: &HttpGrant, method: Method, url: &str) -> bool {
        Target::of(&url.parse().unwrap())
            .is_ok_and(|target| Rule::parse(grant).unwrap().covers(&target, &method))
    }

    #[test]
    fn a_grant_covers_exactly_its_scheme_host_port_and_methods() {
        let bank = grant("https", "API.bank.example", None);
        for (covered, method, url) in [
            (true, Method::POST, "https://api.bank.example/pay?x=1"),
            (true, Method::GET, "https://API.Bank.Example:443/"),
            (true, Method::GET, "https://api.bank.example./"),
            (false, Method::PUT, "https://api.bank.example/"),
            (false, Method::POST, "http://api.bank.example/"),
            (false, Method::POST, "http://api.bank.example:443/"),
            (false, Method::POST, "https://api.bank.example:8443/"),
            (false, Method::POST, "https://bank.example/"),
            (false, Method::POST, "https://evil.example/"),
            (false, Method::POST, "https://api.bank.example.evil.example/"),
            (false, Method::POST, "https://api.bank.example@evil.example/"),
            (false, Method::POST, "https://user@api.bank.example/"),
        ] {
            assert_eq!(covers(&bank, method.clone(), url), covered, "{method} {url}");
        }
    }

    #[test]
    fn a_pattern_covers_one_label() {
        let below = grant("https", "*.example.com", Some(8443));
        for (covered, url) in [
            (true, "https://a.example.com:8443/"),
            (false, "https://a.example.com/"),
            (false, "https://example.com:8443/"),
            (false, "https://a.b.example.com:8443/"),
            (false, "https://aexample.com:8443/"),
            (false, "https://.example.com:8443/"),
        ] {
            assert_eq!(covers(&below, Method::GET, url), covered, "{url}");
        }
        // No pattern covers an address.
        assert!(!covers(&grant("http", "*.0.0.1", None), Method::GET, "http://127.0.0.1/"));
    }

    #[test]
    fn addresses_are_matched_as_addresses() {
        let v6 = grant("http", "::1", Some(8080));
        assert!(
            covers(&v6, Method::GET, "http://[::1]:8080/")
                && covers(&v6, Method::GET, "http://[0:0::1]:8080/")
        );
        assert!(covers(&grant("http", "[::1]", Some(8080)), Method::GET, "http://[::1]:8080/"));
        let v4 = grant("http", "127.0.0.1", None);
        assert!(covers(&v4, Method::GET, "http://127.0.0.1/"));
        // Other spellings of an address count as names, which are not granted.
        for url in [
            "http://2130706433/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(!covers(&v4, Method::GET, url), "{url}");
        }
    }

    #[test]
    fn every_problem_of_a_grant_is_reported() {
        let wrong = HttpGrant {
            scheme: "ftp".into(),
            host: "https://x/y".into(),
            port: Some(0),
            methods: vec![],
            allow_private: false,
        };
        let fields: Vec<&str> =
            Rule::parse(&wrong).unwrap_err().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["scheme", "host", "port", "methods"]);
        for host in [
            "",
            "*",
            "*.com",
            "*.*.example.com",
            "a.*.example.com",
            "a..b",
            "exa mple.com",
            "host:80",
            &"a".repeat(64),
        ] {
            assert!(Rule::parse(&grant("https", host, None)).is_err(), "{host}");
        }
        let connect = HttpGrant {
            methods: vec!["CONNECT".into(), "get".into()],
            ..grant("https", "a.example", None)
        };
        assert_eq!(Rule::parse(&connect).unwrap_err().len(), 2);
    }

    #[test]
    fn the_host_header_is_derived_from_the_target() {
        let authority =
            |url: &str| Target::of(&url.parse().unwrap()).map(|target| target.authority()).ok();
        assert_eq!(authority("https://A.example:443/").as_deref(), Some("a.example"));
        assert_eq!(authority("http://a.example:443/").as_deref(), Some("a.example:443"));
        assert_eq!(authority("http://[::1]:8080/").as_deref(), Some("[::1]:8080"));
        assert_eq!(authority("http://a.example:0/"), None);
    }
}
