//! Counts statements, for measurements.

use crate::domain::steps::COSTS;

/// Counts one statement in a round trip of its own, and the rows that it returned or changed.
pub(super) fn count_statement(returned: usize, changed: u64) {
    tracing::trace!(
        target: COSTS,
        statements = 1_u64,
        round_trips = 1_u64,
        rows_read = returned,
        rows_changed = changed
    );
}

/// Counts the statements of a script, which share a round trip.
pub(super) fn count_script(sql: &str, returned: usize) {
    tracing::trace!(
        target: COSTS,
        statements = sql.split("; ").count(),
        round_trips = 1_u64,
        rows_read = returned
    );
}

/// Counts a transaction that was committed.
pub(super) fn count_commit() {
    tracing::trace!(target: COSTS, commits = 1_u64);
}
