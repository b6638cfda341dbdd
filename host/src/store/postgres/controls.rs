//! Plugin loads, stage controls and log levels, written one at a time.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::store::{
    ControlChange, LogLevelChange, PluginLoad, StageControl, StageLogLevel, StoreError, decode,
    log_levels, stages,
};

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

/// Sets or removes the log level of a stage.
pub(super) async fn set_log_level(
    db: &Pool,
    context: &Context,
    change: &LogLevelChange,
) -> Result<Option<StageLogLevel>, TransactionError> {
    let (stage, now_ms) = (change.stage.as_str(), context.clock.now_ms());
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let before = fetch(&mut *transaction, log_levels::ONE, args![stage]).await?;
    let before = before.first().map(log_levels::decode).transpose()?;
    let Some(entry) = change.audited(before.as_ref(), now_ms) else { return Ok(None) };
    let until_ms = change.until_ms.map(|until_ms| until_ms as i64);
    match change.level {
        Some(level) => {
            let args = args![stage, level.name(), now_ms as i64, until_ms];
            execute(&mut transaction, log_levels::SET, args).await?;
        }
        None => _ = execute(&mut transaction, log_levels::REMOVE, args![stage]).await?,
    }
    transaction.commit_with(context, entry).await?;
    Ok(change.level(now_ms))
}
