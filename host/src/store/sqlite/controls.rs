//! Plugin loads and stage controls, written one at a time.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::store::decode;
use crate::store::stages;
use crate::store::transaction::Operation;
use crate::store::{ControlChange, PluginLoad, StageControl, StoreError};

impl Operation for PluginLoad {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for PluginLoad {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO plugin_loads (stage, digest, version, host, loaded_ms) \
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let (stage, digest, version) =
            (self.stage.as_str(), self.digest.as_str(), self.version.as_str());
        let args = args![stage, digest, version, self.host.as_str(), self.loaded_at_ms as i64];
        let before = fetch(&mut *writer.conn, stages::LAST_LOAD, args![stage]).await?;
        let entry = self.audited(before.first())?;
        execute(&mut *writer.conn, sql, args).await?;
        writer.audit(entry).await
    }
}

impl Operation for ControlChange {
    type Reply = StageControl;
}

#[async_trait]
impl SingleOperation for ControlChange {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<StageControl, StoreError> {
        let (stage, reason) = (self.stage.as_str(), self.reason.as_deref());
        let args = args![stage, decode::control_name(self.state), reason, writer.now_ms as i64];
        let before = fetch(&mut *writer.conn, stages::CONTROL, args![stage]).await?;
        let entry = self.audited(before.first())?;
        let rows = fetch(&mut *writer.conn, decode::SET_STAGE_CONTROL, args).await?;
        let control =
            rows.first().ok_or_else(StoreError::missing_row).and_then(decode::stage_control)?;
        writer.audit(entry).await?;
        Ok(control)
    }
}
