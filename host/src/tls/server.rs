//! The server's end of a connection, and its files, which are read again when they change.
//!
//! Guarantee: a handshake uses one consistent set of files. What cannot be used, such as a
//! certificate without its key, never replaces what can: it is logged, and the previous files keep
//! serving.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::files::{NamedFile, authorities, identity};

/// How often the files are compared with what is served. They are read, not watched: a watch misses
/// what happens on another machine's file system, and behind the links of mounted secrets.
const INTERVAL: Duration = Duration::from_secs(1);
/// What clients may speak, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerFiles {
    /// Its certificate, with the chain up to the authority.
    pub(crate) cert: NamedFile,
    /// The certificate's key.
    pub(crate) key: NamedFile,
    /// The authorities of clients; none: clients are not asked for a certificate.
    pub(crate) client_ca: Option<NamedFile>,
    /// Whether every client must show a certificate.
    pub(crate) clients_must: bool,
}

type FileDigest = [u8; 32];

impl ServerFiles {
    /// Reads the files; the error has every problem.
    fn load(&self) -> Result<Arc<ServerConfig>, Vec<String>> {
        let mut problems = Vec::new();
        let own = identity(&self.cert, &self.key, &mut problems);
        let clients = self.client_ca.as_ref().map(|ca| authorities(ca, &mut problems));
        let (Some(own), true) = (own, problems.is_empty()) else { return Err(problems) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks the default versions");
        let builder = match clients.flatten() {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier =
                    if self.clients_must { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier.build().map_err(|error| vec![error.to_string()])?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(own.chain, own.key);
        let mut config = config.map_err(|error| vec![error.to_string()])?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }

    /// Changes when a file does. A file that cannot be read counts as empty.
    fn digest(&self) -> FileDigest {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let mut digest = Sha256::new();
        for file in files.into_iter().flatten() {
            let content = std::fs::read(&file.path).unwrap_or_default();
            digest.update((content.len() as u64).to_le_bytes());
            digest.update(content);
        }
        digest.finalize().into()
    }
}

/// Adds every problem of the files of a server.
pub(crate) fn check_server(files: &ServerFiles, problems: &mut Vec<String>) {
    if let Err(found) = files.load() {
        problems.extend(found);
    }
}

/// The server's end, with the files as they are now.
pub(crate) struct ReloadedTls {
    files: ServerFiles,
    current: ArcSwap<ServerConfig>,
    /// Of the files that were read last, whether or not they could be used.
    seen: Mutex<FileDigest>,
}

impl ReloadedTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Every problem of the files.
    pub(crate) fn load(files: ServerFiles) -> Result<Self, Vec<String>> {
        // Before the files: a change in between is noticed.
        let seen = Mutex::new(files.digest());
        let current = ArcSwap::new(files.load()?);
        Ok(Self { files, current, seen })
    }

    /// For the next handshake.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again if they changed; blocks.
    pub(crate) fn tick(&self) {
        let digest = self.files.digest();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == digest {
            return;
        }
        *seen = digest;
        match self.files.load() {
            Ok(config) => {
                self.current.store(config);
                tracing::info!(file = %self.files.cert.path.display(), "new TLS certificate");
            }
            Err(problems) => tracing::error!(
                problems = problems.join("; "),
                "the changed TLS files cannot be used, the previous ones keep serving"
            ),
        }
    }

    /// Follows the files until cancelled.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let this = Arc::clone(&self);
            // An error is a panic, which the task's supervisor must see.
            if let Err(error) = tokio::task::spawn_blocking(move || this.tick()).await {
                if error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
