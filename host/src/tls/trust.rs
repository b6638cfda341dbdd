//! What a client trusts: the certificates of the machine, or those that it is given.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

/// A client that trusts the certificates of the machine, or those in `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`; they are read once.
pub(crate) fn trusting_the_system() -> Arc<ClientConfig> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(TRUST.get_or_init(|| trusting(system_roots())))
}

/// The certificates of the machine. None at all is a warning: no server will be trusted.
pub(super) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(errors = ?found.errors, "no trusted certificates found: encrypted connections to servers will fail");
    }
    roots
}

/// A client that trusts these authorities, and shows no certificate of its own.
pub(crate) fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    Arc::new(builder().with_root_certificates(roots).with_no_client_auth())
}

pub(super) fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks the default versions")
}
