//! Certificates for tests: authorities, and what they sign, as files in a folder of the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use postrider::internals::{ClientFiles, NamedFile, client_config};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Signs certificates.
pub(crate) struct Authority {
    folder: PathBuf,
    /// Its own certificate.
    pub(crate) file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, which keeps its files in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let file = folder.join(format!("{name}.crt"));
        std::fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { folder: folder.to_owned(), file, issuer: Issuer::new(params, key) })
    }

    /// A certificate for the host `localhost`.
    pub(crate) fn server(&self, name: &str) -> Result<Pair> {
        self.sign(name, |_| {})
    }

    /// The same, but it expired.
    pub(crate) fn expired_server(&self, name: &str) -> Result<Pair> {
        self.sign(name, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// A certificate for a client of this name.
    pub(crate) fn client(&self, name: &str) -> Result<Pair> {
        self.sign(name, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    fn sign(&self, name: &str, adapt: impl FnOnce(&mut CertificateParams)) -> Result<Pair> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        adapt(&mut params);
        let key = KeyPair::generate()?;
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let pair = Pair { cert: file("crt"), key: file("key") };
        std::fs::write(&pair.cert, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// A client that trusts this authority, and shows a certificate.
    pub(crate) fn trusting(&self, identity: Option<&Pair>) -> Result<rustls::ClientConfig> {
        let named = |path: &Path| NamedFile::new("file", path);
        let identity = identity.map(|pair| (named(&pair.cert), named(&pair.key)));
        let files = ClientFiles { ca: Some(named(&self.file)), identity };
        let config = client_config(&files).map_err(|problems| anyhow!(problems.join("; ")))?;
        Ok(Arc::unwrap_or_clone(config))
    }

    /// An HTTP client that trusts this authority; it prefers HTTP/2 or speaks HTTP/1.1 only.
    pub(crate) fn http_client(
        &self,
        identity: Option<&Pair>,
        http2: bool,
    ) -> Result<reqwest::Client> {
        let mut config = self.trusting(identity)?;
        let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
        Ok(reqwest::Client::builder().tls_backend_preconfigured(config).build()?)
    }
}
