//! The recorded chains of events, written on the writer's connection.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::domain::actor::Actor;
use crate::store::StoreError;
use crate::store::chains::{self, ChainCount, ChainRecord};
use crate::store::transaction::Operation;

/// Adds to the recorded numbers of events.
pub(super) struct CountChains {
    pub(super) counts: Vec<ChainCount>,
}

impl Operation for CountChains {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for CountChains {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        for count in &self.counts {
            let (first_ms, last_ms) = (count.first_at_ms as i64, count.last_at_ms as i64);
            let (id, now_ms) = (&*count.correlation_id, writer.now_ms as i64);
            let args = args![id, count.events, first_ms, last_ms, now_ms];
            execute(writer.conn, chains::COUNT, args).await?;
        }
        Ok(())
    }
}

/// Stops a chain.
pub(super) struct StopChain {
    pub(super) correlation_id: String,
    pub(super) reason: Option<String>,
    pub(super) actor: Actor,
}

impl Operation for StopChain {
    type Reply = ChainRecord;
}

#[async_trait]
impl SingleOperation for StopChain {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<ChainRecord, StoreError> {
        let (id, reason) = (self.correlation_id.as_str(), self.reason.as_deref());
        let before = fetch(&mut *writer.conn, chains::STOPPED, args![id]).await?;
        let entry = chains::audited(&self.actor, id, before.first(), true)?;
        let args = args![id, reason, writer.now_ms as i64];
        let rows = fetch(&mut *writer.conn, chains::STOP, args).await?;
        let chain = rows.first().ok_or_else(StoreError::missing_row).and_then(chains::decode)?;
        writer.audit(entry.because(self.reason.clone())).await?;
        Ok(chain)
    }
}

/// Lets a chain run again.
pub(super) struct ResumeChain {
    pub(super) correlation_id: String,
    pub(super) reason: Option<String>,
    pub(super) actor: Actor,
}

impl Operation for ResumeChain {
    type Reply = ChainRecord;
}

#[async_trait]
impl SingleOperation for ResumeChain {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<ChainRecord, StoreError> {
        let id = self.correlation_id.as_str();
        let before = fetch(&mut *writer.conn, chains::STOPPED, args![id]).await?;
        let entry = chains::audited(&self.actor, id, before.first(), false)?;
        let rows =
            fetch(&mut *writer.conn, chains::RESUME, args![id, writer.now_ms as i64]).await?;
        let chain = rows.first().ok_or_else(StoreError::missing_row).and_then(chains::decode)?;
        writer.audit(entry.because(self.reason.clone())).await?;
        Ok(chain)
    }
}
