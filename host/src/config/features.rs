//! What this build leaves out: a URL or a section that needs a missing cargo feature is an error
//! that names the feature, not something that is silently ignored.

use super::{BrokerUrl, StoreUrl};

/// A cargo feature, and whether this build has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feature {
    name: &'static str,
    enabled: bool,
}

const ENCRYPTION: Feature = Feature { name: "encryption", enabled: cfg!(feature = "encryption") };
const HTTP: Feature = Feature { name: "http", enabled: cfg!(feature = "http") };
const POSTGRES: Feature = Feature { name: "postgres", enabled: cfg!(feature = "postgres") };
const RABBITMQ: Feature = Feature { name: "rabbitmq", enabled: cfg!(feature = "rabbitmq") };
const SQLITE: Feature = Feature { name: "sqlite", enabled: cfg!(feature = "sqlite") };
pub(super) const TLS: Feature = Feature { name: "tls", enabled: cfg!(feature = "tls") };
const WASM: Feature = Feature { name: "wasm", enabled: cfg!(feature = "wasm") };

/// Sections that configure nothing without their feature.
pub(super) const SECTIONS: [(&str, Feature); 4] =
    [("encryption", ENCRYPTION), ("http", HTTP), ("plugins", WASM), ("runtime", WASM)];

impl Feature {
    /// The feature that opens a store.
    pub(super) fn of_store(url: StoreUrl<'_>) -> Self {
        match url {
            StoreUrl::Sqlite(_) => SQLITE,
            StoreUrl::Postgres(_) => POSTGRES,
        }
    }

    /// The features that connect to a broker; none for the embedded one.
    pub(super) fn of_broker(url: BrokerUrl<'_>) -> &'static [Self] {
        match url {
            BrokerUrl::Embedded => &[],
            BrokerUrl::Amqp(_) if url.is_encrypted() => &[RABBITMQ, TLS],
            BrokerUrl::Amqp(_) => &[RABBITMQ],
        }
    }

    /// The problem with `key`, when this build does not have the feature.
    pub(super) fn problem(self, key: &str) -> Option<String> {
        let Self { name, enabled } = self;
        (!enabled).then(|| {
            format!("{key}: this build does not support it: enable the cargo feature `{name}`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_feature_is_named() {
        let missing = Feature { name: "postgres", enabled: false };
        let problem = missing.problem("store.url").unwrap();
        assert!(problem.starts_with("store.url: ") && problem.contains("`postgres`"), "{problem}");
        assert_eq!(Feature { enabled: true, ..missing }.problem("store.url"), None);
    }

    #[test]
    fn each_url_needs_its_feature() {
        let store = |url| Feature::of_store(StoreUrl::parse(url).unwrap()).name;
        assert_eq!(store("postgres://localhost/orders"), "postgres");
        assert_eq!(store("sqlite:orders.db"), "sqlite");
        let broker = |url| -> Vec<&str> {
            let features = Feature::of_broker(BrokerUrl::parse(url).unwrap());
            features.iter().map(|feature| feature.name).collect()
        };
        assert_eq!(broker("amqp://localhost"), ["rabbitmq"]);
        assert_eq!(broker("amqps://localhost"), ["rabbitmq", "tls"]);
        assert!(broker("embedded:").is_empty());
    }
}
