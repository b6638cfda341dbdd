//! What hosts coordinate through the database: bindings in use, and leases of single-active stages.
//! All times are the database's.

use super::Context;
use super::outbox::now;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch, store_error};
use super::state_places;
use super::transaction::PooledTransaction;
use crate::store::StoreError;
use crate::store::bindings::{self, KnownBindings, StageBinding};
use crate::store::hosts::{self, LiveHost, SharedSettings};
use crate::store::sealed;

/// Records the bindings that this host uses, deletes outdated ones and returns all.
pub(super) async fn record_bindings(
    db: &Pool,
    context: &Context,
    used: &[StageBinding],
    live_ms: u64,
) -> Result<KnownBindings, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let (now_ms, cut_ms) = (now_ms as i64, now_ms.saturating_sub(live_ms) as i64);
    let stages: Vec<&str> = used.iter().map(|binding| &*binding.stage).collect();
    let patterns: Vec<&str> = used.iter().map(|binding| binding.pattern.as_str()).collect();
    let sql = "INSERT INTO bindings (stage, pattern, host, seen_ms) SELECT DISTINCT k.stage, \
               k.pattern, $3, $4::int8 \
               FROM unnest($1::text[], $2::text[]) k (stage, pattern) ORDER BY 1, 2 \
               ON CONFLICT (stage, pattern, host) DO UPDATE SET seen_ms = excluded.seen_ms";
    execute(
        &mut transaction,
        sql,
        args![stages.as_slice(), patterns, context.host.as_str(), now_ms],
    )
    .await?;
    // Releases the bindings that this host's version of a stage no longer uses.
    let sql = "UPDATE bindings SET seen_ms = 0 WHERE host = $1 AND seen_ms < $2 AND stage = \
               ANY($3::text[])";
    execute(&mut transaction, sql, args![context.host.as_str(), now_ms, stages]).await?;
    execute(&mut transaction, bindings::DELETE_OUTLIVED, args![cut_ms]).await?;
    let rows = fetch(&mut *transaction, bindings::KNOWN, args![cut_ms]).await?;
    transaction.commit().await?;
    Ok(bindings::decode(&rows)?)
}

/// Records that this host is live, and deletes the rows of those that are gone. Finds out whether the
/// state of a stage was moved meanwhile.
pub(super) async fn record_host(
    db: &Pool,
    context: &Context,
    settings: &SharedSettings,
    report: &str,
) -> Result<(), TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let settings = serde_json::to_string(settings).expect("a map of strings always serialises");
    let host = context.host.as_str();
    let report = sealed::report(&context.encryption, host, report);
    execute(&mut transaction, hosts::RECORD, args![host, now_ms as i64, settings, &*report])
        .await?;
    let gone_ms = now_ms.saturating_sub(hosts::KEPT_MS) as i64;
    execute(&mut transaction, hosts::DELETE_GONE, args![gone_ms]).await?;
    let recorded = state_places::recorded(&mut transaction).await?;
    transaction.commit().await?;
    context.state.compare(&recorded);
    Ok(())
}

/// The live hosts, by name.
pub(super) async fn live_hosts(
    db: &Pool,
    context: &Context,
) -> Result<Vec<LiveHost>, TransactionError> {
    let sql = concat!(
        "SELECT ",
        hosts::live_columns!(),
        " FROM hosts WHERE seen_ms > ",
        now!(),
        " - $2 ORDER BY host"
    );
    let rows = fetch(db, sql, args![context.fixed_time(), hosts::LIVE_MS as i64]).await?;
    Ok(hosts::decode_live(&rows, &context.encryption)?)
}

/// Deletes this host's row, when it stops.
pub(super) async fn delete_host(db: &Pool, context: &Context) -> Result<(), StoreError> {
    let sql = "DELETE FROM hosts WHERE host = $1";
    let deleted = fetch(db, sql, args![context.host.as_str()]).await;
    deleted.map(drop).map_err(|error| store_error(&error))
}

/// Writes to this host's row, if there is one.
pub(super) async fn probe(db: &Pool, context: &Context) -> Result<(), StoreError> {
    let sql = "UPDATE hosts SET seen_ms = seen_ms WHERE host = $1";
    let written = fetch(db, sql, args![context.host.as_str()]).await;
    written.map(drop).map_err(|error| store_error(&error))
}

/// Deletes a binding; false when a live host uses it.
pub(super) async fn delete_binding(
    db: &Pool,
    context: &Context,
    binding: &StageBinding,
    live_ms: u64,
) -> Result<bool, StoreError> {
    // A host that records the binding after this statement binds the queue after the caller's
    // unbind.
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
    db: &Pool,
    context: &Context,
    stage: &str,
    ttl_ms: u64,
) -> Result<bool, StoreError> {
    let sql = concat!(
        "INSERT INTO stage_leases AS l (stage, host, until_ms) VALUES ($2, $3, ",
        now!(),
        " + $4) ON CONFLICT (stage) DO UPDATE SET host = excluded.host, until_ms = \
         excluded.until_ms \
         WHERE l.host = excluded.host OR l.until_ms <= ",
        now!(),
        " RETURNING host"
    );
    let rows =
        fetch(db, sql, args![context.fixed_time(), stage, context.host.as_str(), ttl_ms as i64])
            .await;
    Ok(!rows.map_err(|error| store_error(&error))?.is_empty())
}

/// Releases the lease if this host has it.
pub(super) async fn release_stage(
    db: &Pool,
    context: &Context,
    stage: &str,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM stage_leases WHERE stage = $1 AND host = $2";
    fetch(db, sql, args![stage, context.host.as_str()])
        .await
        .map(|_| ())
        .map_err(|error| store_error(&error))
}
