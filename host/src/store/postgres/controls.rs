//! Plugin loads and stage controls, written one at a time.

use super::pool::Pool;
use super::sql::{TransactionError, args, fetch};
use crate::store::decode;
use crate::store::{ControlState, PluginLoad, StageControl, StoreError};

pub(super) async fn record_plugin_load(
    db: &Pool,
    load: &PluginLoad,
) -> Result<(), TransactionError> {
    let sql = "INSERT INTO plugin_loads (stage, digest, version, host, loaded_ms) \
               VALUES ($1, $2, $3, $4, $5)";
    let (stage, digest, version) =
        (load.stage.as_str(), load.digest.as_str(), load.version.as_str());
    let args = args![stage, digest, version, load.host.as_str(), load.loaded_at_ms as i64];
    fetch(db, sql, args).await?;
    Ok(())
}

/// Stores the state that an operator set for a stage.
pub(super) async fn set_stage_control(
    db: &Pool,
    stage: &str,
    state: ControlState,
    reason: Option<&str>,
    now_ms: u64,
) -> Result<StageControl, TransactionError> {
    let args = args![stage, decode::control_name(state), reason, now_ms as i64];
    let rows = fetch(db, decode::SET_STAGE_CONTROL, args).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    Ok(decode::stage_control(row)?)
}
