//! The machine: the API's address, room on the disks, open files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;

use super::Finding;
use postrider::config::{Config, StoreUrl};

/// Longest wait for whoever serves at the address.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Less room than this ends soon.
const ROOM_LITTLE_BYTES: u64 = 1 << 30;
/// Less room than this has ended.
const ROOM_LEAST_BYTES: u64 = 64 << 20;
/// Connections, database, plugins and sockets together.
const FILES_LEAST: u64 = 1_024;

/// Whether the API can listen where it should.
pub(super) async fn address(listen: &str) -> Finding {
    let Err(error) = TcpListener::bind(listen).await else {
        return Finding::ok("address", format!("{listen} is free"));
    };
    if error.kind() == ErrorKind::AddrInUse && serves(listen).await {
        return Finding::ok("address", format!("a host serves at {listen}"));
    }
    let remedy = "set http.listen to an address of this machine and a port that nobody uses";
    Finding::problem("address", format!("{listen} cannot be listened at: {error}"), remedy)
}

/// Whether a host of ours is there.
async fn serves(listen: &str) -> bool {
    let asked = async {
        let answer = reqwest::Client::builder()
            .timeout(ANSWER_MAX)
            .build()?
            .get(format!("http://{listen}/ready"))
            .send()
            .await?;
        answer.json::<serde_json::Value>().await
    };
    asked.await.is_ok_and(|answer| {
        answer.get("ready").is_some() && answer.get("stages_without_plugin").is_some()
    })
}

/// Room where the host writes; one finding for each file system.
pub(super) fn disk(config: &Config) -> Vec<Finding> {
    let mut folders: Vec<PathBuf> = vec![config.plugins.archive_dir.clone()];
    folders.extend(config.runtime.cache_dir.clone());
    if let Some(StoreUrl::Sqlite(path)) = StoreUrl::parse(&config.store.url) {
        folders.push(Path::new(path).parent().map_or_else(PathBuf::new, Path::to_owned));
    }
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for folder in folders {
        let place = existing(&folder);
        let Ok(stat) = rustix::fs::statvfs(place) else { continue };
        if seen.insert(stat.f_fsid) {
            findings.push(room(place, stat.f_bavail * stat.f_frsize));
        }
    }
    findings
}

fn room(place: &Path, bytes: u64) -> Finding {
    let found = format!("{} MB are free at {}", bytes >> 20, place.display());
    let remedy = "make room: without it no order is accepted";
    match bytes {
        ..ROOM_LEAST_BYTES => Finding::problem("disk", found, remedy),
        ROOM_LEAST_BYTES..ROOM_LITTLE_BYTES => Finding::warning("disk", found, remedy),
        _ => Finding::ok("disk", found),
    }
}

/// The folder, or the nearest one above it that is there.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

/// How many files this user may have open.
pub(super) fn open_files() -> Finding {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match most {
        Some(most) if most < FILES_LEAST => {
            let found = format!("at most {most} files may be open");
            Finding::warning(
                "files",
                found,
                format!("raise the limit to {FILES_LEAST} or more (`ulimit -n`, LimitNOFILE)"),
            )
        }
        most => Finding::ok(
            "files",
            most.map_or("no limit".to_owned(), |most| format!("at most {most} files may be open")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::Level;

    #[test]
    fn little_room_is_said_before_it_ends() {
        for (bytes, level) in
            [(1 << 40, Level::Ok), (500 << 20, Level::Warning), (63 << 20, Level::Problem)]
        {
            assert_eq!(room(Path::new("/data"), bytes).level, level, "{bytes}");
        }
    }

    #[test]
    fn a_folder_that_will_be_made_counts_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("data/postrider")), folder.path());
    }
}
