//! Checks of the machine: the API's address, free disk space, and the limit on open files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;

use super::Finding;
use postrider::Config;
use postrider::internals::{HttpSettings, StoreUrl};

/// Timeout for a request to a host that already listens at the address.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A warning below this much free space.
const FREE_LOW_BYTES: u64 = 1 << 30;
/// A problem below this much free space.
const FREE_MIN_BYTES: u64 = 64 << 20;
/// Open files needed for connections, the database, plugins and sockets together.
const OPEN_FILES_MIN: u64 = 1_024;

/// Checks that the API can listen at its address.
pub(super) async fn address(http: &HttpSettings) -> Finding {
    let listen = &http.listen;
    let Err(error) = TcpListener::bind(listen).await else {
        return Finding::ok("address", format!("{listen} is free"));
    };
    if error.kind() == ErrorKind::AddrInUse && serves(http).await {
        return Finding::ok("address", format!("a host is running at {listen}"));
    }
    let remedy = "set http.listen to an address of this machine and a free port";
    Finding::problem("address", format!("cannot listen at {listen}: {error}"), remedy)
}

/// Whether a Postrider host serves at the address.
async fn serves(http: &HttpSettings) -> bool {
    let scheme = if http.tls.is_on() { "https" } else { "http" };
    let url = format!("{scheme}://{}/ready", http.listen);
    let ready = async {
        let answer = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // The request holds no secret, and it goes to an address, for which certificates are rare.
            .tls_danger_accept_invalid_certs(true)
            .build()?
            .get(url)
            .send()
            .await?;
        answer.json::<serde_json::Value>().await
    };
    ready.await.is_ok_and(|answer| {
        answer.get("ready").is_some() && answer.get("stages_without_plugin").is_some()
    })
}

/// Checks the free space where the host writes; one finding per file system.
pub(super) fn disk<'a>(namespaces: impl Iterator<Item = &'a Config>) -> Vec<Finding> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for config in namespaces {
        folders.push(config.plugins.archive_dir.clone());
        folders.extend(config.runtime.cache_dir.clone());
        if let Some(StoreUrl::Sqlite(path)) = StoreUrl::parse(&config.store.url) {
            folders.push(Path::new(path).parent().map_or_else(PathBuf::new, Path::to_owned));
        }
    }
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for folder in folders {
        let path = existing(&folder);
        let Ok(stat) = rustix::fs::statvfs(path) else { continue };
        if seen.insert(stat.f_fsid) {
            findings.push(free_space(path, stat.f_bavail * stat.f_frsize));
        }
    }
    findings
}

fn free_space(path: &Path, bytes: u64) -> Finding {
    let found = format!("{} MB free at {}", bytes >> 20, path.display());
    let remedy = "free up disk space: a full disk stops the host from accepting orders";
    match bytes {
        ..FREE_MIN_BYTES => Finding::problem("disk", found, remedy),
        FREE_MIN_BYTES..FREE_LOW_BYTES => Finding::warning("disk", found, remedy),
        _ => Finding::ok("disk", found),
    }
}

/// The folder, or its nearest ancestor that exists.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

/// Checks the limit on open files.
pub(super) fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < OPEN_FILES_MIN => {
            let found = format!("the limit on open files is {limit}");
            Finding::warning(
                "files",
                found,
                format!("raise the limit to {OPEN_FILES_MIN} or more (`ulimit -n`, LimitNOFILE)"),
            )
        }
        limit => Finding::ok(
            "files",
            limit.map_or("no limit on open files".to_owned(), |limit| {
                format!("the limit on open files is {limit}")
            }),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::Level;

    #[test]
    fn low_disk_space_is_a_warning_before_it_is_a_problem() {
        for (bytes, level) in
            [(1 << 40, Level::Ok), (500 << 20, Level::Warning), (63 << 20, Level::Problem)]
        {
            assert_eq!(free_space(Path::new("/data"), bytes).level, level, "{bytes}");
        }
    }

    #[test]
    fn a_missing_folder_is_checked_at_its_nearest_existing_ancestor() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("data/postrider")), folder.path());
    }
}
