//! Retention of what belongs to no subject, the same for every database: loads of plugins, controls of
//! running stages, log levels that ended, chains of events, and removed state keys.

/// A removed key stays at least this long, because a lane may still cache its version: lanes empty
/// their caches more often.
const REMOVED_KEYS_MS: u64 = 60 * 60 * 1_000;

/// Statements with one placeholder: the time before which rows are deleted.
pub(super) const BY_AGE: [&str; 4] = [
    // The last load of a stage stays while the stage has bindings.
    "DELETE FROM plugin_loads WHERE loaded_ms < $1 AND NOT (id IN (SELECT max(l.id) FROM \
     plugin_loads l GROUP BY l.stage) AND stage IN (SELECT b.stage FROM bindings b))",
    // Without a row, a stage runs. A hold that ended extends expiry, which is shorter than retention.
    "DELETE FROM stage_controls WHERE state = 'running' AND since_ms < $1",
    "DELETE FROM stage_log_levels WHERE until_ms < $1",
    // A stop is needed for as long as a delivery of the chain may run.
    "DELETE FROM chains WHERE changed_ms < $1 AND (stopped_ms IS NULL OR NOT EXISTS (SELECT 1 FROM \
     deliveries d JOIN events e ON e.seq = d.event_seq WHERE d.status = 'open' AND \
     e.correlation_id = chains.correlation_id))",
];

/// Deletes state keys that were removed before then.
pub(super) const REMOVED_KEYS: &str =
    "DELETE FROM state AS s WHERE s.removed_ms IS NOT NULL AND s.removed_ms < $1";

/// Every stage that has state: one index search for each.
pub(super) const STAGES_WITH_STATE: &str = "WITH RECURSIVE s AS (SELECT min(stage) AS stage FROM \
     state UNION ALL SELECT (SELECT min(t.stage) FROM state t WHERE t.stage > s.stage) FROM s WHERE \
     s.stage IS NOT NULL) SELECT stage FROM s WHERE stage IS NOT NULL";

/// Removed keys before then are deleted, when everything else before `before_ms` is.
pub(super) fn removed_before_ms(before_ms: u64, now_ms: u64) -> u64 {
    before_ms.min(now_ms.saturating_sub(REMOVED_KEYS_MS))
}
