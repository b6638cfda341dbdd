//! What a store knows of the hosts of its namespace: which of them are live, and with which
//! settings. And which namespace it belongs to.

use std::collections::BTreeMap;

use super::StoreError;
use super::decode::Columns;
use super::sealed;
use crate::domain::encryption::Encryption;

/// A host that reported nothing for this long is gone.
pub(crate) const LIVE_MS: u64 = 30_000;
/// The row of a host that is gone is deleted after this long.
pub(super) const KEPT_MS: u64 = 60 * 60 * 1_000;

/// Settings by key, those that all hosts of a namespace should share; a long or confidential value
/// is replaced by its digest.
pub type SharedSettings = BTreeMap<String, String>;

/// A live host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// Its name.
    pub host: String,
    /// Its settings.
    pub settings: SharedSettings,
}

/// A live host with what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveHost {
    /// Its name.
    pub host: String,
    /// When it was recorded last, milliseconds since 1970-01-01 UTC.
    pub seen_at_ms: u64,
    /// What it runs: JSON; none: it has not reported yet, or its report cannot be opened.
    pub report: Option<String>,
}

/// Records a host: name, time, settings, report.
pub(super) const RECORD: &str = "INSERT INTO hosts (host, seen_ms, settings, report) VALUES ($1, \
                                 $2, $3, $4) ON CONFLICT (host) DO UPDATE SET seen_ms = \
                                 excluded.seen_ms, settings = excluded.settings, report = \
                                 excluded.report";
/// Deletes the hosts that were last seen by then.
pub(super) const DELETE_GONE: &str = "DELETE FROM hosts WHERE seen_ms <= $1";
/// The hosts that were seen after then, for [`decode`].
pub(super) const LIVE: &str = "SELECT host, settings FROM hosts WHERE seen_ms > $1 ORDER BY host";
/// The columns that [`decode_live`] reads.
macro_rules! live_columns {
    () => {
        "host, seen_ms, report"
    };
}
pub(super) use live_columns;
/// Makes the tables those of a namespace, unless they have one.
pub(super) const CLAIM: &str =
    "INSERT INTO namespace (id, name) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";

pub(super) fn decode(rows: &[impl Columns]) -> Result<Vec<HostReport>, StoreError> {
    let decoded = rows.iter().map(|row| {
        let settings = serde_json::from_str(row.text(1)?)
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(HostReport { host: row.owned(0)?, settings })
    });
    decoded.collect()
}

pub(super) fn decode_live(
    rows: &[impl Columns],
    encryption: &Encryption,
) -> Result<Vec<LiveHost>, StoreError> {
    let decoded = rows.iter().map(|row| {
        let host = row.owned(0)?;
        let stored = row.maybe_text(2)?;
        let report = stored.and_then(|stored| sealed::open_report(encryption, &host, stored));
        Ok(LiveHost { seen_at_ms: row.unsigned(1)?, report, host })
    });
    decoded.collect()
}
