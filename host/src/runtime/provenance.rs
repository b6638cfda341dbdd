//! Provenance of plugins: whether a file may be loaded, and an archive of the files that were.
//!
//! Policy: anything in the folder (`open`), files of listed digests (`digest`), or files with a
//! signature of a known publisher (`signed`: minisign, <https://jedisct1.github.io/minisign/>, in
//! `<file>.minisig` beside it). It is checked before a file is compiled or run. Loaded files are
//! archived by digest, so that a stage can be rolled back; at most [`ARCHIVED_MAX`] of them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::event::hex;

/// Most archived files.
const ARCHIVED_MAX: usize = 50;
/// A signature is a few lines.
const SIGNATURE_MAX_BYTES: u64 = 16 << 10;

/// Which plugin files are loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Whatever is in the folder.
    #[default]
    Open,
    /// Only files whose digest is listed.
    Digest,
    /// Only files with a signature of a listed publisher.
    Signed,
}

/// Why a file may not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its digest is not in the list.
    #[error("plugins.policy is `digest` and plugins.digests does not list {0}")]
    NotListed(String),
    /// There is no signature.
    #[error("plugins.policy is `signed` and there is no {0}: sign it with `minisign -S -m <file>`")]
    NotSigned(String),
    /// It was sent without a file, and so without a signature.
    #[error(
        "plugins.policy is `signed`, and what is sent to the host has no signature: \
         use `postrider replay --plugin <file>`"
    )]
    Sent,
    /// The signature cannot be read.
    #[error("{0} is not a minisign signature: {1}")]
    Unreadable(String, String),
    /// The signature is not by a listed publisher, or the file was changed after it was signed.
    #[error("{0} is not a signature of this content by a key in plugins.publishers")]
    Untrusted(String),
}

/// Decides which files may be loaded.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    policy: Policy,
    digests: BTreeSet<String>,
    publishers: Vec<PublicKey>,
}

impl Provenance {
    /// A policy from its configuration, or every problem of that, each with its key.
    pub fn new(
        policy: Policy,
        digests: &[String],
        publishers: &[String],
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        for digest in digests {
            if digest.len() != 64
                || !digest
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            {
                problems.push(format!(
                    "plugins.digests: `{digest}` is not a SHA-256 in lower-case hexadecimal (`postrider plugin inspect` shows it)"
                ));
            }
        }
        let mut keys = Vec::new();
        for publisher in publishers {
            match PublicKey::from_base64(publisher) {
                Ok(key) => keys.push(key),
                Err(error) => problems.push(format!(
                    "plugins.publishers: `{publisher}` is not a minisign public key: {error}"
                )),
            }
        }
        match policy {
            Policy::Digest if digests.is_empty() => {
                problems.push("plugins.digests: the policy `digest` needs at least one".to_owned());
            }
            Policy::Signed if publishers.is_empty() => {
                problems
                    .push("plugins.publishers: the policy `signed` needs at least one".to_owned());
            }
            _ => {}
        }
        if problems.is_empty() {
            Ok(Self { policy, digests: digests.iter().cloned().collect(), publishers: keys })
        } else {
            Err(problems)
        }
    }

    /// Whether this content of the file at `path`, which has this digest, may be loaded.
    pub fn verify(&self, path: &Path, content: &[u8], digest: &str) -> Result<(), Refused> {
        match self.policy {
            Policy::Open => Ok(()),
            Policy::Digest => self.verify_digest(digest),
            Policy::Signed => self.verify_signature(path, content),
        }
    }

    /// Whether content with this digest that was sent to the host, beside which there is no signature,
    /// may be compiled and run.
    pub fn verify_sent(&self, digest: &str) -> Result<(), Refused> {
        match self.policy {
            Policy::Open => Ok(()),
            Policy::Digest => self.verify_digest(digest),
            Policy::Signed => Err(Refused::Sent),
        }
    }

    fn verify_digest(&self, digest: &str) -> Result<(), Refused> {
        if self.digests.contains(digest) {
            Ok(())
        } else {
            Err(Refused::NotListed(digest.to_owned()))
        }
    }

    fn verify_signature(&self, path: &Path, content: &[u8]) -> Result<(), Refused> {
        let place = signature_of(path);
        let name =
            place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let small =
            std::fs::metadata(&place).is_ok_and(|metadata| metadata.len() <= SIGNATURE_MAX_BYTES);
        let Some(text) = small.then(|| std::fs::read_to_string(&place).ok()).flatten() else {
            return Err(Refused::NotSigned(name));
        };
        let signature = Signature::decode(&text)
            .map_err(|error| Refused::Unreadable(name.clone(), error.to_string()))?;
        let known =
            self.publishers.iter().any(|key| key.verify(content, &signature, false).is_ok());
        if known { Ok(()) } else { Err(Refused::Untrusted(name)) }
    }
}

/// The path of a file's signature.
pub fn signature_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Files that were loaded, by digest.
#[derive(Debug, Clone)]
pub struct PluginArchive {
    dir: PathBuf,
}

impl PluginArchive {
    /// An archive in this folder, which is created with the first file.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn place(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Adds a file that was loaded, with its signature, and deletes the oldest ones.
    pub fn add(&self, path: &Path, content: &[u8], digest: &str) -> io::Result<()> {
        let place = self.place(digest);
        std::fs::create_dir_all(&self.dir)?;
        if std::fs::read(&place).is_ok_and(|kept| kept == content) {
            // It counts as new again.
            std::fs::File::options().append(true).open(&place)?.set_modified(SystemTime::now())?;
            return Ok(());
        }
        write(&place, content)?;
        if let Ok(signature) = std::fs::read(signature_of(path)) {
            write(&signature_of(&place), &signature)?;
        }
        self.delete_oldest()
    }

    fn delete_oldest(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "wasm") {
                files.push((std::fs::metadata(&path)?.modified()?, path));
            }
        }
        files.sort();
        let spare = files.len().saturating_sub(ARCHIVED_MAX);
        for (_, path) in files.into_iter().take(spare) {
            std::fs::remove_file(&path)?;
            let _ = std::fs::remove_file(signature_of(&path));
        }
        Ok(())
    }

    /// Whether this digest can be restored.
    pub fn contains(&self, digest: &str) -> bool {
        self.place(digest).is_file()
    }

    /// Atomically replaces the file at `path` with an archived one and its signature; the host loads
    /// it like any file that changed.
    pub fn restore(&self, digest: &str, path: &Path) -> io::Result<()> {
        let archived = self.place(digest);
        let content = std::fs::read(&archived)?;
        if hex(&Sha256::digest(&content)) != digest {
            let why = format!("{} is damaged: it has another digest", archived.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        match std::fs::read(signature_of(&archived)) {
            Ok(signature) => write(&signature_of(path), &signature)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        write(path, &content)
    }
}

fn write(place: &Path, content: &[u8]) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    // Hidden, so that it is not loaded as a plugin before it is complete.
    let mut temporary = tempfile::Builder::new();
    // A temporary file is private by default: other programs read the folder, too.
    #[cfg(unix)]
    temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = temporary.prefix(".archived-").tempfile_in(folder)?;
    io::Write::write_all(&mut file, content)?;
    // After a power cut, the file has this content or does not exist.
    file.as_file().sync_all()?;
    file.persist(place)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_the_configuration_is_reported() {
        let problems =
            Provenance::new(Policy::Digest, &["ABC".into()], &["key".into()]).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            Provenance::new(Policy::Signed, &[], &[]).unwrap_err()[0]
                .starts_with("plugins.publishers")
        );
        assert!(
            Provenance::new(Policy::Digest, &[], &[]).unwrap_err()[0]
                .starts_with("plugins.digests")
        );
    }

    #[test]
    fn only_listed_digests_are_loaded() {
        let [listed, other] = [b"listed", b"other!"].map(|content| hex(&Sha256::digest(content)));
        let provenance =
            Provenance::new(Policy::Digest, std::slice::from_ref(&listed), &[]).unwrap();
        let path = Path::new("x.wasm");
        assert_eq!(provenance.verify(path, b"listed", &listed), Ok(()));
        assert_eq!(
            provenance.verify(path, b"other!", &other),
            Err(Refused::NotListed(other.clone()))
        );
        assert_eq!(provenance.verify_sent(&listed), Ok(()));
        assert_eq!(provenance.verify_sent(&other), Err(Refused::NotListed(other)));
    }

    #[test]
    fn the_newest_files_are_archived_and_can_be_restored() {
        let folder = tempfile::tempdir().unwrap();
        let archive = PluginArchive::new(folder.path().join("kept"));
        let plugin = folder.path().join("stage.wasm");
        std::fs::write(signature_of(&plugin), "signature").unwrap();
        let digest = |number: usize| hex(&Sha256::digest(number.to_string()));
        for number in 0..ARCHIVED_MAX + 5 {
            archive.add(&plugin, number.to_string().as_bytes(), &digest(number)).unwrap();
        }
        let contains = |number| archive.contains(&digest(number));
        assert!(contains(54) && contains(5) && !contains(4));
        std::fs::remove_file(signature_of(&plugin)).unwrap();
        archive.restore(&digest(7), &plugin).unwrap();
        assert_eq!(std::fs::read_to_string(&plugin).unwrap(), "7");
        assert_eq!(std::fs::read_to_string(signature_of(&plugin)).unwrap(), "signature");
        assert!(archive.restore(&digest(4), &plugin).is_err());
        // A damaged file is not restored, and is replaced when its content is loaded again.
        std::fs::write(archive.place(&digest(8)), "9").unwrap();
        let damaged = archive.restore(&digest(8), &plugin).unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
        archive.add(&plugin, b"8", &digest(8)).unwrap();
        archive.restore(&digest(8), &plugin).unwrap();
    }
}
