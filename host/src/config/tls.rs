//! Which certificates connections use, and what is wrong with their files.
//!
//! Guarantee: what is half configured, such as a certificate without its key, is a problem and never
//! an unencrypted connection. No key is read into the configuration, and none is shown.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::features::TLS;
use super::{BrokerUrl, Config, StoreUrl, namespaces};
use crate::domain::connection_string::ConnectionString;
#[cfg(feature = "tls")]
use crate::tls::{ClientFiles, NamedFile, ServerFiles, check_client, check_server};

/// Encryption of the API. The files are read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpTls {
    /// PEM file with the certificate and its chain, the certificate first. Set: `https` only.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of the certificate.
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities of client certificates. Set: clients are asked for one.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client must show a certificate.
    pub client_certificates: ClientCertificates,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// The handshake fails without one.
    #[default]
    Required,
    /// One that is shown must be valid.
    Optional,
}

/// Certificates of an `amqps://` connection. The files are read for each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are keys of the configuration")]
pub struct BrokerTls {
    /// PEM file with the authorities of the broker's certificate, in place of those of the machine.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate of this host and its chain.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of the certificate.
    pub key_file: Option<PathBuf>,
}

impl HttpTls {
    /// Whether the API is encrypted.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }

    pub(super) fn validate(&self, problems: &mut Vec<String>) {
        if *self == Self::default() {
            return;
        }
        problems.extend(TLS.problem("http.tls"));
        if self.cert_file.is_none() {
            problems.push(
                "http.tls.cert_file: is missing: name the certificate, or remove [http.tls]"
                    .to_owned(),
            );
        } else if self.key_file.is_none() {
            problems.push(missing_key("http.tls.key_file"));
        }
        if self.client_ca_file.is_none() && self.client_certificates == ClientCertificates::Optional
        {
            problems.push(
                "http.tls.client_ca_file: is missing: name the authorities of client certificates, \
                 or remove client_certificates"
                    .to_owned(),
            );
        }
    }

    /// The files; none without encryption.
    #[cfg(feature = "tls")]
    pub(crate) fn files(&self) -> Option<ServerFiles> {
        let client_ca = self.client_ca_file.as_ref();
        Some(ServerFiles {
            cert: NamedFile::new("http.tls.cert_file", self.cert_file.as_ref()?),
            key: NamedFile::new("http.tls.key_file", self.key_file.as_ref()?),
            client_ca: client_ca.map(|path| NamedFile::new("http.tls.client_ca_file", path)),
            clients_must: self.client_certificates == ClientCertificates::Required,
        })
    }
}

impl BrokerTls {
    pub(super) fn validate(&self, url: BrokerUrl<'_>, problems: &mut Vec<String>) {
        if *self == Self::default() {
            return;
        }
        problems.extend(TLS.problem("broker.tls"));
        if !url.is_encrypted() {
            problems.push(
                "broker.tls: broker.url is not encrypted: let it begin with `amqps://`, or remove \
                 [broker.tls]"
                    .to_owned(),
            );
        }
        problems.extend(incomplete(
            "broker.tls.cert_file",
            self.cert_file.as_deref(),
            self.key_file.as_deref(),
        ));
    }

    /// The files.
    #[cfg(feature = "tls")]
    pub fn files(&self) -> ClientFiles {
        let name = |key: &str, path: Option<&Path>| {
            path.map(|path| NamedFile::new(format!("broker.tls.{key}"), path))
        };
        let cert = name("cert_file", self.cert_file.as_deref());
        ClientFiles {
            ca: name("ca_file", self.ca_file.as_deref()),
            identity: cert.zip(name("key_file", self.key_file.as_deref())),
        }
    }
}

impl Config {
    /// Adds the problems of the files of every encrypted connection.
    #[cfg(feature = "tls")]
    pub(super) fn check_all_tls_files(&self, problems: &mut Vec<String>) {
        if let Some(files) = self.http.tls.files() {
            check_server(&files, problems);
        }
        self.check_tls_files("", problems);
        for (name, config) in &self.namespaces {
            config.check_tls_files(&format!("{}.{name}.", namespaces::SECTION), problems);
        }
    }

    #[cfg(feature = "tls")]
    fn check_tls_files(&self, place: &str, problems: &mut Vec<String>) {
        let mut found = Vec::new();
        check_client(&self.broker.tls.files(), &mut found);
        if let Some(StoreUrl::Postgres(url)) = StoreUrl::parse(&self.store.url)
            && let Ok(parsed) = ConnectionString::parse(url)
        {
            check_client(&postgres_files(&parsed), &mut found);
        }
        problems.extend(found.into_iter().map(|problem| format!("{place}{problem}")));
    }
}

/// The files that a connection string names. What is not a path is the text of the file itself.
#[cfg(feature = "tls")]
fn postgres_files(parsed: &ConnectionString) -> ClientFiles {
    let name = |name: &str| {
        let path = parsed.tls(name).filter(|value| !value.trim_start().starts_with("-----BEGIN"));
        path.map(|path| NamedFile::new(format!("store.url: {name}"), path))
    };
    ClientFiles { ca: name("sslrootcert"), identity: name("sslcert").zip(name("sslkey")) }
}

/// Why a certificate and its key are no pair; none if they are, or both are absent.
fn incomplete(cert_key: &str, cert: Option<&Path>, key: Option<&Path>) -> Option<String> {
    match (cert, key) {
        (Some(_), None) => Some(missing_key(&cert_key.replace("cert_file", "key_file"))),
        (None, Some(_)) => Some(format!("{cert_key}: is missing: name the certificate of the key")),
        _ => None,
    }
}

fn missing_key(key: &str) -> String {
    format!("{key}: is missing: name the key of the certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        Config::from_toml(toml).map_or_else(|error| error.0, |_| Vec::new())
    }

    #[test]
    fn half_a_configuration_is_a_problem() {
        for (toml, expected) in [
            ("[http.tls]\nkey_file = \"/k\"", "http.tls.cert_file: is missing"),
            ("[http.tls]\ncert_file = \"/c\"", "http.tls.key_file: is missing"),
            ("[http.tls]\nclient_ca_file = \"/c\"", "http.tls.cert_file: is missing"),
            (
                "[http.tls]\ncert_file = \"/c\"\nkey_file = \"/k\"\nclient_certificates = \"optional\"",
                "http.tls.client_ca_file: is missing",
            ),
            (
                "[broker]\nurl = \"amqps://mq\"\ntls.cert_file = \"/c\"",
                "broker.tls.key_file: is missing",
            ),
            (
                "[broker]\nurl = \"amqps://mq\"\ntls.key_file = \"/c\"",
                "broker.tls.cert_file: is missing",
            ),
            (
                "[broker]\nurl = \"amqp://mq\"\ntls.ca_file = \"/c\"",
                "broker.tls: broker.url is not encrypted",
            ),
        ] {
            let found = problems(toml);
            assert!(found.iter().any(|one| one.starts_with(expected)), "{toml}: {found:?}");
        }
    }

    #[test]
    fn files_of_every_connection_are_checked_together() {
        let found = problems(
            "[http.tls]\ncert_file = \"/no/c\"\nkey_file = \"/no/k\"\n\
             [broker]\nurl = \"amqps://mq\"\ntls.ca_file = \"/no/ca\"\n\
             [store]\nurl = \"postgres://db/x?sslmode=verify-full&sslrootcert=/no/root\"\n\
             [namespaces.shop.broker.tls]\nca_file = \"/no/shop\"\n",
        );
        for key in [
            "http.tls.cert_file: /no/c cannot be read",
            "http.tls.key_file: /no/k cannot be read",
            "broker.tls.ca_file: /no/ca cannot be read",
            "store.url: sslrootcert: /no/root cannot be read",
            "namespaces.shop.broker.tls.ca_file: /no/shop cannot be read",
        ] {
            assert!(found.iter().any(|one| one.starts_with(key)), "{key}: {found:?}");
        }
    }
}
