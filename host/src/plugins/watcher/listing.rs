//! What the plugins folder holds, without reading a file's content.
//!
//! Size, times and inode can all stay the same while the content changes, but not together with the
//! time of the last change (`ctime`), which no program can set. Where even that is in doubt, because
//! a file was written within the precision of its clock, the content itself is compared later.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::runtime::provenance::signature_of;

/// Every plugin file of a folder by name.
pub(super) type Listing = BTreeMap<String, Look>;

/// What a plugin file looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// A file, and its signature if there is one.
    File(Stamp, Option<Stamp>),
    /// It is there, and is no file that can be read: why.
    Unreadable(String),
}

/// Changes with every change of a file's content, owner or permissions, and when another file takes
/// its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    /// In bytes.
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is the same file or folder as `other`, whatever it contains.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// The time since the last change; none if that lies in the future.
    fn age(&self) -> Option<Duration> {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).ok()
    }
}

impl Look {
    /// Follows links. None: there is no such file.
    pub(super) fn at(path: &Path) -> Option<Self> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                let signature = std::fs::metadata(signature_of(path)).ok();
                Some(Self::File(Stamp::of(&metadata), signature.as_ref().map(Stamp::of)))
            }
            Ok(_) => Some(Self::Unreadable("it is not a regular file".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link may be replaced by removing its target first: what serves keeps serving.
                let link = std::fs::symlink_metadata(path).is_ok();
                link.then(|| Self::Unreadable("it is a link to a file that does not exist".into()))
            }
            Err(error) => Some(Self::Unreadable(format!("it cannot be read: {error}"))),
        }
    }

    /// Whether it changed less than this long ago.
    pub(super) fn is_younger_than(&self, age: Duration) -> bool {
        let young = |stamp: &Stamp| stamp.age().is_some_and(|since| since < age);
        match self {
            Self::File(file, signature) => young(file) || signature.as_ref().is_some_and(young),
            Self::Unreadable(_) => false,
        }
    }
}

/// Every `*.wasm` that is not hidden.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut files = Listing::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".").to_owned();
        if !name.starts_with('.')
            && path.extension().is_some_and(|end| end == "wasm")
            && let Some(look) = Look::at(&path)
        {
            files.insert(name, look);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// One way to change a file that has `content` and whose size must stay.
    type Change = fn(&Path);

    #[test]
    fn every_change_of_a_file_changes_its_look() {
        let in_place = |path: &Path| {
            let before = fs::metadata(path).unwrap();
            fs::write(path, "other!!").unwrap();
            File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
        };
        let changes: [(&str, Change); 6] = [
            ("the same size and time in place", in_place),
            ("another file with the same content", |path| {
                fs::write(path.with_extension("new"), "content").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("permissions", |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("a signature appears", |path| fs::write(signature_of(path), "a signature").unwrap()),
            ("a folder takes its place", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
            ("a link to nothing takes its place", |path| {
                fs::remove_file(path).unwrap();
                symlink("nothing", path).unwrap();
            }),
        ];
        for (what, change) in changes {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.wasm");
            fs::write(&path, "content").unwrap();
            let before = Look::at(&path).unwrap();
            // The clock of the file system is coarse; the watcher compares digests until it moved.
            let moved = || {
                change(&path);
                Look::at(&path).unwrap() != before
            };
            let began = std::time::Instant::now();
            let mut seen = moved();
            while !seen && what.contains("in place") && began.elapsed() < Duration::from_secs(5) {
                seen = moved();
            }
            assert!(seen, "{what}");
        }
    }

    #[test]
    fn the_target_of_a_link_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["one", "two"] {
            fs::write(at(name), name).unwrap();
        }
        symlink("one", at("a.wasm")).unwrap();
        let one = Look::at(&at("a.wasm"));
        fs::remove_file(at("a.wasm")).unwrap();
        symlink("two", at("a.wasm")).unwrap();
        let two = Look::at(&at("a.wasm"));
        assert_ne!(one, two);
        fs::rename(at("one"), at("two")).unwrap();
        assert_ne!(Look::at(&at("a.wasm")), two, "its target was replaced");
    }

    #[test]
    fn only_plugin_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.wasm", ".hidden.wasm", "a.wasm.minisig", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("folder.wasm")).unwrap();
        let listed = list(folder.path()).unwrap();
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["a.wasm", "folder.wasm"]);
        assert!(matches!(listed["folder.wasm"], Look::Unreadable(_)));
        assert!(list(&folder.path().join("none")).is_err());
    }
}
