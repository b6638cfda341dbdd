//! Which store and which broker a URL names.

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
        match url.split_once(':')? {
            ("sqlite", path) => Some(Self::Sqlite(path.strip_prefix("//").unwrap_or(path)))
                .filter(|_| !path.is_empty()),
            ("postgres" | "postgresql", _) => Some(Self::Postgres(url)),
            _ => None,
        }
    }
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
            ("amqp", _) => Some(Self::Amqp(url)),
            _ => None,
        }
    }
}

/// The scheme of a URL, with its colon.
pub(super) fn scheme(url: &str) -> &str {
    url.split_inclusive(':').next().unwrap_or(url)
}
