//! Plugin loads, stage controls and log levels, written one at a time.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::store::transaction::Operation;
use crate::store::{
    ControlChange, LogLevelChange, PluginLoad, StageControl, StageLogLevel, StoreError, decode,
    log_levels, stages,
};

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

impl Operation for LogLevelChange {
    type Reply = Option<StageLogLevel>;
}

#[async_trait]
impl SingleOperation for LogLevelChange {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Option<StageLogLevel>, StoreError> {
        let (stage, now_ms) = (self.stage.as_str(), writer.now_ms);
        let before = fetch(&mut *writer.conn, log_levels::ONE, args![stage]).await?;
        let before = before.first().map(log_levels::decode).transpose()?;
        let Some(entry) = self.audited(before.as_ref(), now_ms) else { return Ok(None) };
        let until_ms = self.until_ms.map(|until_ms| until_ms as i64);
        match self.level {
            Some(level) => {
                let args = args![stage, level.name(), now_ms as i64, until_ms];
                execute(&mut *writer.conn, log_levels::SET, args).await?;
            }
            None => _ = execute(&mut *writer.conn, log_levels::REMOVE, args![stage]).await?,
        }
        writer.audit(entry).await?;
        Ok(self.level(now_ms))
    }
}
