//! What protects people whose browsers reach the host from pages of other sites: writes that such a
//! page causes are refused, a name that its owner points at the host is not served, and answers say
//! what a browser must not do with them.
//!
//! Other clients than browsers are not affected: they send neither `Sec-Fetch-Site` nor `Origin`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, IntoResponseParts, Response, ResponseParts};

use super::openapi::DOCS_PATH;
use super::prefix::original_path;
use super::problem::{Answer, Kind, Problem};
use super::{ServedNamespace, cors};
use crate::config::HttpSettings;

/// Adds the protection, in the order in which requests pass it: headers, CORS, cross-site writes.
pub(super) fn protect(router: Router, first: &ServedNamespace) -> Router {
    let origins = Arc::new(first.settings.cors.allowed_origins.clone());
    let refuse = from_fn_with_state(origins, refuse_cross_site_writes);
    match cors::layer(&first.settings.cors) {
        Some(cors) => router.layer((from_fn(add_headers), cors, refuse)),
        None => router.layer((from_fn(add_headers), refuse)),
    }
}

/// Serves only the names of a host. It is for the host's own listener: the router of an embedding
/// program serves the names that the program serves.
pub(super) fn serve_names(router: Router, names: ServedNames) -> Router {
    match names {
        ServedNames::Any => router,
        names => router.layer(from_fn_with_state(Arc::new(names), refuse_other_names)),
    }
}

/// The names that a host serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServedNames {
    /// Every name.
    Any,
    /// Addresses, the configured names, and those that no outsider can register: without a dot, or below
    /// a domain that is reserved for private use.
    Private(Vec<String>),
    /// Addresses, `localhost`, and the configured names.
    Only(Vec<String>),
}

/// Domains whose names no outsider can register (RFC 6761, RFC 6762, RFC 8375; `internal` is ICANN's).
const PRIVATE: [&str; 4] = [".localhost", ".local", ".internal", ".home.arpa"];

impl ServedNames {
    /// Those of a configuration. With tokens every name is safe: a browser has none for a foreign
    /// one.
    pub(super) fn of(settings: &HttpSettings, tokens: bool) -> Self {
        let names = settings.allowed_hosts.clone();
        if names.iter().any(|name| name == "*") || (tokens && names.is_empty()) {
            return Self::Any;
        }
        if names.is_empty() {
            let listen = settings.listen.rsplit_once(':').map_or("", |(host, _)| host);
            return Self::Private(vec![listen.to_ascii_lowercase()]);
        }
        Self::Only(names)
    }

    fn contain(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // A name is at risk, because its owner decides where it points. An address is not.
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        match self {
            Self::Any => true,
            Self::Private(names) => {
                !host.contains('.')
                    || PRIVATE.iter().any(|domain| host.ends_with(domain))
                    || names.contains(&host)
            }
            Self::Only(names) => host == "localhost" || names.contains(&host),
        }
    }
}

async fn refuse_other_names(
    State(names): State<Arc<ServedNames>>,
    request: Request,
    next: Next,
) -> Response {
    let host = host_of(request.headers(), request.uri());
    let refused = match &host {
        // Only HTTP/1.0 has none, and no browser speaks that.
        Some(host) => !names.contain(host.host()),
        None => request.headers().contains_key(header::HOST),
    };
    if refused {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let host = String::from_utf8_lossy(host.unwrap_or_default()).into_owned();
        let shown: String = host.chars().take(100).collect();
        let detail = format!("`{shown}` is not a name of this host: see `http.allowed_hosts`");
        let mut refusal = Problem::new(Kind::MISDIRECTED_REQUEST, detail).into_response();
        set_headers(&mut refusal, CONTENT_POLICY);
        return refusal;
    }
    next.run(request).await
}

/// The host and port that a client asks for.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else { return None };
    host.to_str().ok()?.parse().ok()
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

async fn refuse_cross_site_writes(
    State(allowed): State<Arc<Vec<String>>>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let (method, headers, uri) = (request.method(), request.headers(), request.uri());
    if is_cross_site_write(method, headers, uri, &allowed) {
        let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
        let origin: String = String::from_utf8_lossy(origin).chars().take(200).collect();
        return Err(Problem::new(
            Kind::CROSS_SITE_REQUEST,
            format!("a page of another site (`{origin}`) must not change anything here"),
        ));
    }
    Ok(next.run(request).await)
}

/// Whether a page of another site made a browser send a request that changes something: the rules of
/// `CrossOriginProtection` in Go 1.25.
fn is_cross_site_write(
    method: &Method,
    headers: &HeaderMap,
    uri: &Uri,
    allowed: &[String],
) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let text = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let origin = text(&header::ORIGIN);
    let is_allowed = || allowed.iter().any(|one| one == "*" || origin == Some(one.as_bytes()));
    match text(&SEC_FETCH_SITE) {
        Some(b"same-origin" | b"none") => return false,
        Some(site) if !site.is_empty() => return !is_allowed(),
        // An old browser, or none.
        _ => {}
    }
    let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return false };
    // The scheme is not known: a proxy may have ended TLS.
    let of_origin = std::str::from_utf8(origin).ok().and_then(|origin| origin.parse::<Uri>().ok());
    let of_origin = of_origin.and_then(|origin| origin.authority().cloned());
    let same = of_origin.is_some() && of_origin == host_of(headers, uri);
    !same && !is_allowed()
}

/// For answers that are data.
const CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
/// For the web page of the API's documentation, whose scripts set styles.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action \
                           'none'; frame-ancestors 'none'";
/// For the console, whose scripts and styles are files of the host.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src \
                              'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                              frame-ancestors 'none'";
/// Marks an answer as a file of the console.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConsoleFile;

impl IntoResponseParts for ConsoleFile {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

/// Headers of every answer.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

async fn add_headers(request: Request, next: Next) -> Response {
    let path = original_path(&request);
    let is_docs = path.ends_with(DOCS_PATH) || path.contains("/docs/");
    let mut response = next.run(request).await;
    let policy = match response.extensions().get::<ConsoleFile>() {
        Some(ConsoleFile) => CONSOLE_POLICY,
        None if is_docs && !is_data(response.headers()) => DOCS_POLICY,
        None => CONTENT_POLICY,
    };
    set_headers(&mut response, policy);
    response
}

fn set_headers(response: &mut Response, policy: &'static str) {
    let headers = response.headers_mut();
    headers.reserve(HEADERS.len() + 2);
    headers.extend(HEADERS);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    if policy != DOCS_POLICY {
        // What an answer shows depends on who asks. Files of the console say for how long they hold.
        let entry = headers.entry(header::CACHE_CONTROL);
        entry.or_insert(HeaderValue::from_static("no-store"));
    }
}

fn is_data(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/json") || kind.starts_with(b"application/problem+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(method: Method, headers: &[(&'static str, &str)], allowed: &[&str]) -> bool {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.insert(*name, value.parse().unwrap());
        }
        let allowed: Vec<String> = allowed.iter().map(|one| (*one).to_owned()).collect();
        is_cross_site_write(&method, &all, &Uri::from_static("/orders"), &allowed)
    }

    #[test]
    fn pages_of_other_sites_may_not_write() {
        const HOST: (&str, &str) = ("host", "orders.example:8000");
        const OWN: (&str, &str) = ("origin", "https://orders.example:8000");
        const EVIL: (&str, &str) = ("origin", "https://evil.example");
        for (headers, refused) in [
            (&[HOST][..], false),
            (&[HOST, OWN], false),
            (&[HOST, EVIL], true),
            (&[HOST, ("origin", "null")], true),
            (&[HOST, ("origin", "https://orders.example")], true),
            (&[HOST, ("sec-fetch-site", "same-origin")], false),
            (&[HOST, ("sec-fetch-site", "none")], false),
            (&[HOST, ("sec-fetch-site", "same-site"), OWN], true),
            (&[HOST, ("sec-fetch-site", "cross-site")], true),
            (&[HOST, ("sec-fetch-site", "cross-site"), EVIL], true),
            (&[EVIL], true),
        ] {
            assert_eq!(is_refused(Method::POST, headers, &[]), refused, "{headers:?}");
            assert_eq!(is_refused(Method::DELETE, headers, &[]), refused, "{headers:?}");
            assert!(!is_refused(Method::GET, headers, &[]), "{headers:?}");
        }
        let cross = [HOST, ("sec-fetch-site", "cross-site"), EVIL];
        assert!(!is_refused(Method::POST, &cross, &["https://evil.example"]));
        assert!(!is_refused(Method::POST, &cross, &["*"]));
        assert!(is_refused(Method::POST, &cross, &["https://other.example"]));
        assert!(!is_refused(Method::POST, &[HOST, EVIL], &["https://evil.example"]));
    }

    #[test]
    fn names_that_outsiders_can_register_are_not_served() {
        let settings = HttpSettings { listen: "orders.lan:80".into(), ..HttpSettings::default() };
        let names = ServedNames::of(&settings, false);
        for served in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            "[::1]",
            "192.168.0.7",
            "postrider",
            "host.orders.svc.cluster.local",
            "a.internal",
            "orders.lan",
        ] {
            assert!(names.contain(served), "{served}");
        }
        for refused in ["rebind.evil.example", "127.0.0.1.evil.example", "local.evil.example"] {
            assert!(!names.contain(refused), "{refused}");
        }
        assert_eq!(ServedNames::of(&settings, true), ServedNames::Any);
    }

    #[test]
    fn configured_names_replace_the_default() {
        let allowed_hosts = vec!["orders.example.com".to_owned()];
        let settings = HttpSettings { allowed_hosts, ..HttpSettings::default() };
        let names = ServedNames::of(&settings, true);
        for (host, served) in [
            ("orders.example.com", true),
            ("ORDERS.example.com.", true),
            ("localhost", true),
            ("127.0.0.1", true),
            ("192.168.0.7", true),
            ("postrider", false),
            ("evil.example", false),
        ] {
            assert_eq!(names.contain(host), served, "{host}");
        }
        let allowed_hosts = vec!["*".to_owned()];
        let settings = HttpSettings { allowed_hosts, ..HttpSettings::default() };
        assert_eq!(ServedNames::of(&settings, false), ServedNames::Any);
    }
}
