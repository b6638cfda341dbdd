//! Reads certificates and keys in PEM form. Each problem is a text that names the key of the
//! configuration and the file, but never shows what is in a key file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate;
use super::client::ClientFiles;

/// A file, and the key of the configuration that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Such as `http.tls.cert_file`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
}

impl NamedFile {
    /// The file of this key.
    pub fn new(key: impl Into<String>, path: impl AsRef<Path>) -> Self {
        Self { key: key.into(), path: path.as_ref().to_owned() }
    }

    fn problem(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {} {what}", self.key, self.path.display())
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        std::fs::read(&self.path).map_err(|error| self.problem(format!("cannot be read: {error}")))
    }

    /// Its certificates; at least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read()?).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(self.problem(
                "has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`): convert it, or \
                 name another file",
            )),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let text = self.read()?;
        let encrypted = b"ENCRYPTED";
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Ok(key),
            Err(_) if text.windows(encrypted.len()).any(|part| part == encrypted) => Err(self
                .problem(
                    "is encrypted with a password: decrypt it (`openssl pkey -in … -out …`), and \
                     let only the host read it",
                )),
            Err(_) => Err(self.problem(
                "has no private key in PEM form (`-----BEGIN PRIVATE KEY-----`): convert it, or \
                 name another file",
            )),
        }
    }
}

/// A certificate with its chain, and its key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Reads a certificate and its key, and checks that it is valid now and that the key is its own.
pub(super) fn identity(
    cert: &NamedFile,
    key: &NamedFile,
    problems: &mut Vec<String>,
) -> Option<Identity> {
    let chain = cert.certificates().map_err(|problem| problems.push(problem)).ok();
    let private = key.private_key().map_err(|problem| problems.push(problem)).ok();
    let invalid = chain.iter().flatten().find_map(certificate::problem);
    problems.extend(invalid.iter().map(|why| cert.problem(why)));
    let (chain, private) = (chain?, private?);
    if invalid.is_some() {
        return None;
    }
    match keys_match(&chain, &private) {
        Ok(()) => Some(Identity { chain, key: private }),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let other = cert.path.display();
            problems.push(key.problem(format!(
                "is not the key of the certificate in {other}: name the two that belong together"
            )));
            None
        }
        Err(error) => {
            problems.push(key.problem(format!("cannot be used as a key: {error}")));
            None
        }
    }
}

fn keys_match(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    let signing = provider.key_provider.load_private_key(key.clone_key())?;
    CertifiedKey::new(chain.to_vec(), signing).keys_match()
}

/// Reads the authorities in a file: at least one that is valid now.
pub(super) fn authorities(
    ca: &NamedFile,
    problems: &mut Vec<String>,
) -> Option<Arc<RootCertStore>> {
    let found = ca.certificates().map_err(|problem| problems.push(problem)).ok()?;
    if let Some(Some(why)) = found.iter().map(certificate::problem).min() {
        // `min`: none of them is without a problem.
        problems.push(ca.problem(why));
        return None;
    }
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found);
    if usable == 0 {
        problems.push(ca.problem("has no certificate that can be an authority: name another file"));
        return None;
    }
    Some(Arc::new(roots))
}

/// Adds every problem of the files of a client.
pub(crate) fn check_client(files: &ClientFiles, problems: &mut Vec<String>) {
    if let Some(ca) = &files.ca {
        authorities(ca, problems);
    }
    if let Some((cert, key)) = &files.identity {
        identity(cert, key, problems);
    }
}

#[cfg(test)]
mod tests;
