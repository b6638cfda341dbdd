//! How many connections the limit on open files allows.

use rustix::process::{Resource, getrlimit};

/// Files that connections leave to the store's files, the broker, plugins, outgoing calls, logs and
/// the connections for health checks.
const RESERVED: usize = 240;

/// Most connections: as many as configured, but fewer than there may be open files. Half of those are
/// left at most.
pub(crate) fn places(configured: usize, store_connections: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let places = within(files, store_connections).min(configured);
    if places < configured {
        tracing::info!(
            places,
            configured,
            files,
            "the limit on open files allows fewer HTTP connections than `http.connections_max`"
        );
    }
    places
}

fn within(files: usize, store_connections: usize) -> usize {
    let reserved = (RESERVED + store_connections).min(files / 2);
    (files - reserved).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_files_is_reserved() {
        assert_eq!(within(1_024, 16), 768);
        assert_eq!(within(20_000, 8), 19_752);
        assert_eq!(within(256, 8), 128);
        assert_eq!(within(1, 8), 1);
    }
}
