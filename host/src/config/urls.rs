//! Which store and which broker a URL names.

use super::features::{Feature, TLS};
use crate::domain::connection_string::ConnectionString;

/// What stands in the place of a masked value.
const MASK: &str = "***";
/// What the console replaces by the id of a trace.
const TRACE_ID: &str = "{trace_id}";

/// Which store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreUrl<'a> {
    /// The path of the file.
    Sqlite(&'a str),
    /// The whole URL.
    Postgres(&'a str),
}

impl<'a> StoreUrl<'a> {
    /// None for anything else.
    pub fn parse(url: &'a str) -> Option<Self> {
        if is_keyword_list(url) {
            return Some(Self::Postgres(url));
        }
        match url.split_once(':')? {
            ("sqlite", path) => Some(Self::Sqlite(path.strip_prefix("//").unwrap_or(path)))
                .filter(|_| !path.is_empty()),
            ("postgres" | "postgresql", _) => Some(Self::Postgres(url)),
            _ => None,
        }
    }
}

impl StoreUrl<'_> {
    /// What is wrong with it; the text shows no value of it.
    pub(super) fn problem(self) -> Option<String> {
        match self {
            Self::Postgres(url) => {
                let parsed = ConnectionString::parse(url);
                parsed.err().map(|error| format!("not a Postgres URL: {error}"))
            }
            Self::Sqlite(_) => None,
        }
    }

    /// The feature that its encryption needs; none if it does not insist on it.
    pub(super) fn tls_feature(self) -> Option<Feature> {
        match self {
            Self::Postgres(url) => {
                let parsed = ConnectionString::parse(url).ok()?;
                parsed.requires_tls().then_some(TLS)
            }
            Self::Sqlite(_) => None,
        }
    }
}

/// Whether this is a list such as `host=/run/postgresql dbname=orders`.
fn is_keyword_list(url: &str) -> bool {
    const NAMES: [&str; 6] = ["host", "hostaddr", "port", "user", "password", "dbname"];
    url.split_once('=').is_some_and(|(name, _)| NAMES.contains(&name.trim()))
}

/// Which broker a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerUrl<'a> {
    /// In this process.
    Embedded,
    /// `RabbitMQ`: the whole URL.
    Amqp(&'a str),
}

impl<'a> BrokerUrl<'a> {
    /// None for anything else.
    pub fn parse(url: &'a str) -> Option<Self> {
        match url.split_once(':')? {
            ("embedded", "") => Some(Self::Embedded),
            ("amqp" | "amqps", _) => Some(Self::Amqp(url)),
            _ => None,
        }
    }

    /// Whether the connection to it is encrypted.
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Self::Amqp(url) if url.starts_with("amqps:"))
    }
}

/// The scheme of a URL, with its colon; empty when there is none.
pub(super) fn scheme(url: &str) -> &str {
    let scheme = url.split_inclusive(':').next().unwrap_or_default();
    let is_scheme = scheme.strip_suffix(':').is_some_and(|name| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    if is_scheme { scheme } else { "" }
}

/// The URL with `***` in place of every password. It may be malformed: too much is masked rather than
/// too little.
pub(super) fn mask_password(url: &str) -> String {
    let mut masked = String::with_capacity(url.len());
    let mut rest = url;
    if let Some((scheme, after)) = url.split_once("://")
        && let Some((credentials, location)) = after.rsplit_once('@')
        && let Some((user, _)) = credentials.split_once(':')
    {
        masked = [scheme, "://", user, ":***@"].concat();
        rest = location;
    }
    while let Some(at) = rest.find("password") {
        let (before, after) = rest.split_at(at + "password".len());
        masked.push_str(before);
        rest = after;
        let Some(value) = after.trim_start().strip_prefix('=').map(str::trim_start) else {
            continue;
        };
        masked.push_str("=***");
        rest = match value.strip_prefix('\'') {
            // Up to the last quote: a quote in the password may be escaped.
            Some(quoted) => quoted.rsplit_once('\'').map_or("", |(_, rest)| rest),
            None => &value[value.find(['&', ' ']).unwrap_or(value.len())..],
        };
    }
    masked + rest
}

/// A URL without its password and the values of its query; `{trace_id}` stands for no value. Only the
/// user of a broker is shown: elsewhere a token may stand in its place.
pub(super) fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if BrokerUrl::parse(url) == Some(BrokerUrl::Embedded) {
            url.to_owned()
        } else {
            MASK.into()
        };
    };
    // Up to the last one: a password may contain another.
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let credentials = credentials.map(|credentials| match credentials.split_once(':') {
        Some((user, _)) if scheme.starts_with("amqp") => format!("{user}:{MASK}@"),
        None if scheme.starts_with("amqp") => format!("{credentials}@"),
        _ => format!("{MASK}@"),
    });
    format!("{scheme}://{}{}", credentials.unwrap_or_default(), without_values(place))
}

/// A place without the values of its query and fragment.
fn without_values(place: &str) -> String {
    let Some(at) = place.find(['?', '#']) else { return place.to_owned() };
    let (place, values) = place.split_at(at);
    let shown = values.split_inclusive(['?', '#', '&']).map(|part| {
        let (part, end) = match part.strip_suffix(['?', '#', '&']) {
            Some(before) => part.split_at(before.len()),
            None => (part, ""),
        };
        match part.split_once('=') {
            _ if part.is_empty() || part == TRACE_ID => format!("{part}{end}"),
            Some((_, TRACE_ID)) => format!("{part}{end}"),
            Some((name, _)) => format!("{name}={MASK}{end}"),
            None => format!("{MASK}{end}"),
        }
    });
    place.to_owned() + &shown.collect::<String>()
}

/// The URL of a store without its password: written from what was understood of it.
pub(super) fn shown_store(url: &str) -> String {
    match StoreUrl::parse(url) {
        Some(StoreUrl::Sqlite(_)) => without_values(url),
        Some(StoreUrl::Postgres(url)) => {
            ConnectionString::parse(url).map_or_else(|_| MASK.to_owned(), |parsed| shown(&parsed))
        }
        None => MASK.to_owned(),
    }
}

fn shown(parsed: &ConnectionString) -> String {
    let servers = parsed.servers.iter().map(|server| {
        let port = server.port.map(|port| format!(":{port}")).unwrap_or_default();
        server.host.clone().unwrap_or_default() + &port
    });
    let servers = servers.collect::<Vec<_>>().join(",");
    let password = parsed.password.as_ref().map(|_| format!(":{MASK}")).unwrap_or_default();
    let user = match (&parsed.user, &*password) {
        (None, "") => String::new(),
        (user, password) => format!("{}{password}@", user.as_deref().unwrap_or_default()),
    };
    let database = parsed.database.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    // Other values may be the text of a file.
    let tls = parsed.tls("sslmode").map(|mode| format!("?sslmode={mode}")).unwrap_or_default();
    format!("postgres://{user}{servers}{database}{tls}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_in_every_form() {
        for (url, expected) in [
            ("postgres://u:secret@db/x", "postgres://u:***@db/x"),
            ("postgres://u:secret@a:1,b:2/x?a=b", "postgres://u:***@a:1,b:2/x?a=b"),
            ("postgres://u:sec/ret@db/x", "postgres://u:***@db/x"),
            ("postgres:///x?password=secret&user=u", "postgres:///x?password=***&user=u"),
            ("host=db password=secret user=u", "host=db password=*** user=u"),
            ("host=db password = 'se\\'cret' user=u", "host=db password=*** user=u"),
            ("amqp://guest:secret@mq/%2f", "amqp://guest:***@mq/%2f"),
            ("sqlite:data/postrider.db", "sqlite:data/postrider.db"),
            ("postgres://u@db/x", "postgres://u@db/x"),
        ] {
            assert_eq!(mask_password(url), expected);
        }
        assert_eq!((scheme("mysql://u:secret@db"), scheme("hosts=x password=a:b")), ("mysql:", ""));
    }

    #[test]
    fn urls_are_shown_without_anything_confidential() {
        for (url, expected) in [
            ("embedded:", "embedded:"),
            (
                "amqp://guest:se/c@ret@mq:5672/%2f?heartbeat=5",
                "amqp://guest:***@mq:5672/%2f?heartbeat=***",
            ),
            ("https://secret@keys/jwks?token=secret&secret", "https://***@keys/jwks?token=***&***"),
            ("https://u:secret@keys/jwks", "https://***@keys/jwks"),
            ("https://jaeger/trace/{trace_id}", "https://jaeger/trace/{trace_id}"),
            ("https://x/?org=secret&id={trace_id}#secret", "https://x/?org=***&id={trace_id}#***"),
            ("secret", "***"),
        ] {
            assert_eq!(shown_url(url), expected, "{url}");
        }
        for (url, expected) in [
            ("sqlite:data/postrider.db", "sqlite:data/postrider.db"),
            ("sqlite:x.db?key=secret", "sqlite:x.db?key=***"),
            ("postgres://u:secret@a:1,b:2/x?options=-c%20a%3Dsecret", "postgres://u:***@a:1,b:2/x"),
            ("postgres://db/x?user=u&pass%77ord=secret", "postgres://u:***@db/x"),
            ("postgresql:///x?password=secret", "postgres://:***@/x"),
            ("host=db password = 'se\\'cret' user=u", "postgres://u:***@db"),
            (
                "postgres://u@db/x?sslmode=verify-full&sslcert=/c&sslkey=-----BEGIN%20secret",
                "postgres://u@db/x?sslmode=verify-full",
            ),
            ("postgres://u:secret@db:port/x", "***"),
            ("mysql://u:secret@db/x", "***"),
        ] {
            assert_eq!(shown_store(url), expected, "{url}");
        }
    }

    #[test]
    fn keyword_lists_are_postgres() {
        for url in ["host=/run/pg dbname=x", "dbname=x", " user = u", "postgresql:///x"] {
            assert_eq!(StoreUrl::parse(url), Some(StoreUrl::Postgres(url)));
        }
        assert_eq!(StoreUrl::parse("path=x"), None);
    }
}
