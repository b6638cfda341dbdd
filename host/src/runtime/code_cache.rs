//! Compiled code on disk: only saves work.
//!
//! Code from a file runs as part of the host, so none is used unless this host's key authenticates
//! it, its name included: write access to the folder alone is of no use, and a
//! damaged file is compiled again. What is used is the copy in memory that was authenticated. An
//! artifact's name holds the digest of the plugin file and the engine's compatibility hash, so
//! another engine never reads it. Files are written under another name, synced and renamed.

use std::fs::{DirBuilder, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tempfile::NamedTempFile;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Ending of the file with the key, which only the host's user can read. It is beside the folder, so
/// that who may write compiled code may not write the key.
const KEY_ENDING: &str = ".key";
const KEY_BYTES: usize = 32;
/// Permissions of its owner.
const PRIVATE: u32 = 0o700;
/// At the end of each artifact.
const TAG_BYTES: usize = 32;
/// Larger artifacts are neither written nor read.
const ARTIFACT_MAX_BYTES: u64 = 1 << 30;
/// What the key is used for.
const PURPOSE: &[u8] = b"postrider compiled code 1";

/// A folder of compiled code.
pub(super) struct CodeCache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
}

impl CodeCache {
    /// Opens a folder, which is created with its key if there is none.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let key = key_at(&key_place(&folder))?;
        Ok(Self { folder, key })
    }

    /// The code of a plugin file for this engine, if it is there and authentic.
    pub(super) fn read(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = name_of(engine, digest);
        let place = self.folder.join(&name);
        let code = match self.authentic(&place, &name) {
            Ok(code) => code,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, place = %place.display(), "kept code is not used; compiling again");
                return None;
            }
        };
        // SAFETY: the tag proves that a host with this key wrote these bytes, which are in memory
        // and no longer change, and the name that they are of this engine's kind.
        #[expect(unsafe_code, reason = "deserialisation trusts the bytes")]
        let component = unsafe { Component::deserialize(engine, &code) };
        component
            .inspect_err(|error| {
                tracing::warn!(%error, place = %place.display(), "kept code is not used; compiling again");
            })
            .ok()
    }

    /// The content of an artifact without its tag.
    fn authentic(&self, place: &Path, name: &str) -> io::Result<Vec<u8>> {
        // A pipe would block its reader.
        let metadata = std::fs::metadata(place)?;
        if !metadata.is_file() || metadata.len() > ARTIFACT_MAX_BYTES {
            return Err(io::Error::other("not a file of compiled code"));
        }
        let mut code = Vec::with_capacity(metadata.len() as usize);
        File::open(place)?.take(ARTIFACT_MAX_BYTES).read_to_end(&mut code)?;
        let forged = || io::Error::other("it is damaged, or was not written by this host");
        let tag = code.split_off(code.len().checked_sub(TAG_BYTES).ok_or_else(forged)?);
        self.tagged(name, &code).verify_slice(&tag).map_err(|_| forged())?;
        Ok(code)
    }

    /// Keeps the code of a plugin file.
    pub(super) fn write(&self, engine: &Engine, digest: &str, code: &[u8]) -> io::Result<()> {
        let name = name_of(engine, digest);
        let tag = self.tagged(&name, code).finalize().into_bytes();
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(code)?;
        file.write_all(&tag)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    fn tagged(&self, name: &str, code: &[u8]) -> Hmac<Sha256> {
        let Ok(mut tag) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("a key of any length is accepted")
        };
        for part in [PURPOSE, name.as_bytes(), code] {
            tag.update(&(part.len() as u64).to_le_bytes());
            tag.update(part);
        }
        tag
    }
}

fn name_of(engine: &Engine, digest: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{digest}-{:016x}.cwasm", hasher.finish())
}

/// `<folder>.key`; in the folder, if nothing can be written beside it.
fn key_place(folder: &Path) -> PathBuf {
    let inside = folder.join(KEY_ENDING);
    let Some(name) = folder.file_name() else { return inside };
    let mut name = name.to_owned();
    name.push(KEY_ENDING);
    let beside = folder.with_file_name(name);
    let writable = NamedTempFile::new_in(folder_of(&beside)).is_ok();
    if writable { beside } else { inside }
}

fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The key in a file; a new one if there is none, or if others may know or have written it.
fn key_at(place: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut fresh = NamedTempFile::new_in(folder_of(place))?;
    let ours = fresh.as_file().metadata()?.uid();
    match private_key(place, ours) {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {
            tracing::warn!(place = %place.display(), "the key of the kept code is damaged or not private to this user; it is replaced, and plugins are compiled again");
            if place.is_dir() && !place.is_symlink() {
                std::fs::remove_dir(place)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let missing = std::fs::symlink_metadata(place).is_err();
    let key: [u8; KEY_BYTES] = rand::random();
    fresh.write_all(&key)?;
    fresh.as_file().sync_all()?;
    if missing {
        match fresh.persist_noclobber(place) {
            Ok(_) => Ok(key),
            // Another host was faster.
            Err(lost) => private_key(place, ours)?.ok_or(lost.error),
        }
    } else {
        fresh.persist(place)?;
        Ok(key)
    }
}

/// The key in a file that only this user can read or write; none if the file is no such.
fn private_key(place: &Path, user: u32) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let found = std::fs::symlink_metadata(place)?;
    let private = found.permissions().mode() & 0o777 & !PRIVATE == 0 && found.uid() == user;
    if !found.is_file() || !private || found.len() != KEY_BYTES as u64 {
        return Ok(None);
    }
    let mut file = File::open(place)?;
    let opened = file.metadata()?;
    if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
        return Ok(None);
    }
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key)?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct CacheFixture {
        folder: tempfile::TempDir,
        engine: Engine,
    }

    impl CacheFixture {
        /// A folder with code of the digests `one` and `two`.
        fn new() -> Self {
            let kept = Self { folder: tempfile::tempdir().unwrap(), engine: Engine::default() };
            for (digest, value) in [("one", 1), ("two", 2)] {
                kept.keep(digest, value);
            }
            kept
        }

        fn compiled(&self, value: u32) -> Component {
            let text = format!("(component (core module (func (result i32) i32.const {value})))");
            Component::from_binary(&self.engine, &wat::parse_str(text).unwrap()).unwrap()
        }

        fn keep(&self, digest: &str, value: u32) {
            let code = self.compiled(value).serialize().unwrap();
            self.open().write(&self.engine, digest, &code).unwrap();
        }

        fn open(&self) -> CodeCache {
            CodeCache::open(self.code()).unwrap()
        }

        fn code(&self) -> PathBuf {
            self.folder.path().join("code")
        }

        fn place(&self, digest: &str) -> PathBuf {
            self.code().join(name_of(&self.engine, digest))
        }

        fn key(&self) -> PathBuf {
            self.folder.path().join("code.key")
        }

        fn is_used(&self, digest: &str) -> bool {
            self.open().read(&self.engine, digest).is_some()
        }
    }

    #[test]
    fn code_is_used_again_by_another_host_with_the_key() {
        let kept = CacheFixture::new();
        assert!(kept.is_used("one") && kept.is_used("two") && !kept.is_used("three"));
        for place in [kept.key(), kept.place("one")] {
            assert_eq!(fs::metadata(place).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let files = fs::read_dir(kept.code()).unwrap().count();
        assert_eq!(files, 2, "nothing but the code is left behind");
    }

    #[test]
    fn changed_code_is_not_used_and_is_written_again() {
        type Change = fn(&CacheFixture, &Path);
        let changes: [(&str, Change); 9] = [
            ("a byte in the middle", |_, place| {
                let mut code = fs::read(place).unwrap();
                let middle = code.len() / 2;
                code[middle] ^= 1;
                fs::write(place, code).unwrap();
            }),
            ("zeros", |_, place| {
                let len = fs::metadata(place).unwrap().len() as usize;
                fs::write(place, vec![0; len]).unwrap();
            }),
            ("the tag", |_, place| {
                let mut code = fs::read(place).unwrap();
                *code.last_mut().unwrap() ^= 1;
                fs::write(place, code).unwrap();
            }),
            ("cut short", |_, place| {
                let code = fs::read(place).unwrap();
                fs::write(place, &code[..code.len() - 1]).unwrap();
            }),
            ("longer", |_, place| {
                let mut code = fs::read(place).unwrap();
                code.push(0);
                fs::write(place, code).unwrap();
            }),
            ("empty", |_, place| fs::write(place, "").unwrap()),
            ("the authentic code of another file", |kept, place| {
                fs::copy(kept.place("two"), place).map(drop).unwrap();
            }),
            ("code without a tag", |kept, place| {
                fs::write(place, kept.compiled(3).serialize().unwrap()).unwrap();
            }),
            ("a folder in its place", |_, place| {
                fs::remove_file(place).unwrap();
                fs::create_dir(place).unwrap();
            }),
        ];
        for (what, change) in changes {
            let kept = CacheFixture::new();
            change(&kept, &kept.place("one"));
            assert!(!kept.is_used("one"), "{what}");
            assert!(kept.is_used("two"), "{what}");
            if kept.place("one").is_file() {
                kept.keep("one", 1);
                assert!(kept.is_used("one"), "{what}");
            }
        }
    }

    #[test]
    fn key_that_others_may_know_is_replaced() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("removed", |key| fs::remove_file(key).unwrap()),
            ("readable by others", |key| {
                fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
            }),
            ("cut short", |key| {
                let content = fs::read(key).unwrap();
                fs::write(key, &content[1..]).unwrap();
            }),
            ("empty", |key| fs::write(key, "").unwrap()),
            ("a link", |key| {
                fs::rename(key, key.with_extension("elsewhere")).unwrap();
                symlink(key.with_extension("elsewhere"), key).unwrap();
            }),
            ("a folder", |key| {
                fs::remove_file(key).unwrap();
                fs::create_dir(key).unwrap();
            }),
        ];
        for (what, change) in changes {
            let kept = CacheFixture::new();
            change(&kept.key());
            assert!(!kept.is_used("one"), "{what}");
            let key = fs::symlink_metadata(kept.key()).unwrap();
            assert!(key.is_file() && key.permissions().mode() & 0o777 == 0o600, "{what}");
            kept.keep("one", 1);
            assert!(kept.is_used("one"), "{what}");
        }
    }
}
