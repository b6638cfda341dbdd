//! What hosts agree upon through the database: bindings in use, and leases of single-active stages.
//! All times are the database's.

use sqlx::PgPool;

use super::Context;
use super::sql::{Refused, args, execute, fetch, store_error};
use super::{committer, outbox::now};
use crate::store::StoreError;
use crate::store::bindings::{self, KnownBindings, StageBinding};

/// Notes what this host uses, forgets what is told by a newer row, and gives all that is known.
pub(super) async fn record_bindings(
    db: &PgPool,
    context: &Context,
    used: &[StageBinding],
    live_ms: u64,
) -> Result<KnownBindings, StoreError> {
    Ok(record_or_conflict(db, context, used, live_ms).await?)
}

async fn record_or_conflict(
    db: &PgPool,
    context: &Context,
    used: &[StageBinding],
    live_ms: u64,
) -> Result<KnownBindings, Refused> {
    let mut conn = super::begin_on(db).await?;
    let (times, _) = committer::begin(&mut conn, context).await?;
    let (now_ms, cut_ms) = (times.now_ms as i64, times.now_ms.saturating_sub(live_ms) as i64);
    let stages: Vec<&str> = used.iter().map(|binding| &*binding.stage).collect();
    let patterns: Vec<&str> = used.iter().map(|binding| binding.pattern.as_str()).collect();
    let sql = "INSERT INTO bindings (stage, pattern, host, seen_ms) SELECT DISTINCT k.stage, k.pattern, $3, $4::int8 \
               FROM unnest($1::text[], $2::text[]) k (stage, pattern) ORDER BY 1, 2 \
               ON CONFLICT (stage, pattern, host) DO UPDATE SET seen_ms = excluded.seen_ms";
    execute(&mut conn, sql, args![stages.as_slice(), patterns, context.host.as_str(), now_ms])
        .await?;
    // What this host's version of a stage no longer asks for is let go at once.
    let sql = "UPDATE bindings SET seen_ms = 0 WHERE host = $1 AND seen_ms < $2 AND stage = ANY($3::text[])";
    execute(&mut conn, sql, args![context.host.as_str(), now_ms, stages]).await?;
    execute(&mut conn, bindings::DELETE_OUTLIVED, args![cut_ms]).await?;
    let rows = fetch(&mut *conn, bindings::KNOWN, args![cut_ms]).await?;
    execute(&mut conn, "COMMIT", args![]).await?;
    conn.keep();
    Ok(bindings::decode(&rows)?)
}

/// Forgets a binding; false when a host used it lately.
pub(super) async fn delete_binding(
    db: &PgPool,
    context: &Context,
    binding: &StageBinding,
    live_ms: u64,
) -> Result<bool, StoreError> {
    // Who notes the binding after this looked, binds it after its caller unbound it.
    let sql = concat!(
        "DELETE FROM bindings WHERE stage = $2 AND pattern = $3 AND seen_ms <= ",
        now!(),
        " - $4"
    );
    let (stage, pattern) = (&*binding.stage, binding.pattern.as_str());
    let gone = fetch(db, sql, args![context.fixed_time(), stage, pattern, live_ms as i64]).await;
    gone.map_err(|error| store_error(&error))?;
    let left = fetch(
        db,
        "SELECT 1 FROM bindings WHERE stage = $1 AND pattern = $2",
        args![stage, pattern],
    )
    .await;
    Ok(left.map_err(|error| store_error(&error))?.is_empty())
}

/// Takes or renews the lease of a stage; false when another host has it.
pub(super) async fn lease_stage(
    db: &PgPool,
    context: &Context,
    stage: &str,
    ttl_ms: u64,
) -> Result<bool, StoreError> {
    let sql = concat!(
        "INSERT INTO stage_leases AS l (stage, host, until_ms) VALUES ($2, $3, ",
        now!(),
        " + $4) ON CONFLICT (stage) DO UPDATE SET host = excluded.host, until_ms = excluded.until_ms \
         WHERE l.host = excluded.host OR l.until_ms <= ",
        now!(),
        " RETURNING host"
    );
    let rows =
        fetch(db, sql, args![context.fixed_time(), stage, context.host.as_str(), ttl_ms as i64])
            .await;
    Ok(!rows.map_err(|error| store_error(&error))?.is_empty())
}

/// Gives the lease back, if this host has it.
pub(super) async fn release_stage(
    db: &PgPool,
    context: &Context,
    stage: &str,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM stage_leases WHERE stage = $1 AND host = $2";
    fetch(db, sql, args![stage, context.host.as_str()])
        .await
        .map(|_| ())
        .map_err(|error| store_error(&error))
}
