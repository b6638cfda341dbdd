//! The certificate of a client.

/// A certificate that was verified during the handshake: signed by an authority of
/// `http.tls.client_ca_file`, and valid at the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, such as `O=Example, CN=billing`.
    pub subject: String,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// Its alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// Its alternative names that are URIs, such as `spiffe://example/billing`.
    pub uris: Vec<String>,
    /// SHA-256 of the certificate in lower-case hexadecimal digits.
    pub fingerprint: String,
}
