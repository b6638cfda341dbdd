//! Plugin loads and stage controls, written one at a time.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::decode;
use crate::store::stages;
use crate::store::{ControlChange, PluginLoad, StageControl, StoreError};

pub(super) async fn record_plugin_load(
    db: &Pool,
    context: &Context,
    load: &PluginLoad,
) -> Result<(), TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let (stage, digest, version) =
        (load.stage.as_str(), load.digest.as_str(), load.version.as_str());
    let before = fetch(&mut *transaction, stages::LAST_LOAD, args![stage]).await?;
    let entry = load.audited(before.first())?;
    let sql = "INSERT INTO plugin_loads (stage, digest, version, host, loaded_ms) \
               VALUES ($1, $2, $3, $4, $5)";
    let args = args![stage, digest, version, load.host.as_str(), load.loaded_at_ms as i64];
    execute(&mut transaction, sql, args).await?;
    transaction.commit_with(context, entry).await
}

/// Stores the state that an operator set for a stage.
pub(super) async fn set_stage_control(
    db: &Pool,
    context: &Context,
    change: &ControlChange,
) -> Result<StageControl, TransactionError> {
    let (stage, reason) = (change.stage.as_str(), change.reason.as_deref());
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let before = fetch(&mut *transaction, stages::CONTROL, args![stage]).await?;
    let entry = change.audited(before.first())?;
    let now_ms = context.clock.now_ms() as i64;
    let args = args![stage, decode::control_name(change.state), reason, now_ms];
    let rows = fetch(&mut *transaction, decode::SET_STAGE_CONTROL, args).await?;
    let control = decode::stage_control(rows.first().ok_or_else(StoreError::missing_row)?)?;
    transaction.commit_with(context, entry).await?;
    Ok(control)
}
