//! TLS: certificates and keys in files, and what the connections of a host trust.
//!
//! Guarantees: every problem of a file is found before the file is used, and named by the key of the
//! configuration. No text shows a key. The cryptography is that of `ring`, named wherever a
//! configuration is built, so that it does not depend on what else the program links or installs.

#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod server;
#[cfg(any(feature = "tls", feature = "wasm"))]
mod trust;

#[cfg(feature = "tls")]
pub(crate) use self::certificate::client_certificate;
#[cfg(all(feature = "http", feature = "tls"))]
pub(crate) use self::client::connect;
#[cfg(feature = "tls")]
pub use self::client::{ClientFiles, client_config, explain};
#[cfg(feature = "tls")]
pub use self::files::NamedFile;
#[cfg(feature = "tls")]
pub(crate) use self::files::check_client;
#[cfg(feature = "tls")]
pub(crate) use self::server::{ReloadedTls, ServerFiles, check_server};
#[cfg(test)]
pub(crate) use self::trust::trusting;
#[cfg(any(feature = "tls", feature = "wasm"))]
pub(crate) use self::trust::trusting_the_system;

/// Makes the cryptography of this crate the default of the process, unless it has one: for programs
/// whose other libraries need a default. A host does not.
#[cfg(feature = "tls")]
pub fn install_default_provider() {
    // An error says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
