//! Which store and which broker a URL names.

use super::features::{Feature, TLS};
use crate::domain::connection_string::ConnectionString;

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
pub fn mask_password(url: &str) -> String {
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
    fn keyword_lists_are_postgres() {
        for url in ["host=/run/pg dbname=x", "dbname=x", " user = u", "postgresql:///x"] {
            assert_eq!(StoreUrl::parse(url), Some(StoreUrl::Postgres(url)));
        }
        assert_eq!(StoreUrl::parse("path=x"), None);
    }
}
