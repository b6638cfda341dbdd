//! There is one host at a time: whatever another run left is not held by anybody.

use sqlx::SqliteConnection;

use super::Context;
use super::sql::{args, execute, fetch};
use crate::store::StoreError;
use crate::store::bindings::{self, KnownBindings, StageBinding};

/// Frees what earlier runs held: outbox rows, and bindings in use.
pub(super) async fn release(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    execute(
        conn,
        "UPDATE outbox SET owner = NULL, lease_until_ms = NULL WHERE owner IS NOT NULL",
        args![],
    )
    .await?;
    execute(conn, "UPDATE bindings SET seen_ms = 0", args![]).await?;
    Ok(())
}

/// Notes what this host uses, forgets what is told by a newer row, and gives all that is known.
pub(super) async fn record_bindings(
    conn: &mut SqliteConnection,
    context: &Context,
    now_ms: u64,
    (used, live_ms): (&[StageBinding], u64),
) -> Result<KnownBindings, StoreError> {
    let (host, now_ms, cut_ms) =
        (context.host.as_str(), now_ms as i64, now_ms.saturating_sub(live_ms) as i64);
    for binding in used {
        let sql = "INSERT INTO bindings (stage, pattern, host, seen_ms) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (stage, pattern, host) DO UPDATE SET seen_ms = excluded.seen_ms";
        execute(conn, sql, args![&*binding.stage, binding.pattern.as_str(), host, now_ms]).await?;
    }
    for binding in used {
        // What this host's version of a stage no longer asks for is let go at once.
        let sql = "UPDATE bindings SET seen_ms = 0 WHERE host = $1 AND seen_ms < $2 AND stage = $3";
        execute(conn, sql, args![host, now_ms, &*binding.stage]).await?;
    }
    execute(conn, bindings::DELETE_OUTLIVED, args![cut_ms]).await?;
    bindings::decode(&fetch(conn, bindings::KNOWN, args![cut_ms]).await?)
}

/// Forgets a binding; false when a host used it lately.
pub(super) async fn delete_binding(
    conn: &mut SqliteConnection,
    now_ms: u64,
    (binding, live_ms): (&StageBinding, u64),
) -> Result<bool, StoreError> {
    let (stage, pattern) = (&*binding.stage, binding.pattern.as_str());
    let sql = "DELETE FROM bindings WHERE stage = $1 AND pattern = $2 AND seen_ms <= $3";
    execute(conn, sql, args![stage, pattern, now_ms.saturating_sub(live_ms) as i64]).await?;
    Ok(fetch(
        conn,
        "SELECT 1 FROM bindings WHERE stage = $1 AND pattern = $2",
        args![stage, pattern],
    )
    .await?
    .is_empty())
}
