//! The audit log, written on the writer's connection.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::store::StoreError;
use crate::store::audit::{self, AuditEntry, known_args, record_args};
use crate::store::transaction::Operation;

/// Appends records in the transaction of what they record. There is one writer, so the head is the
/// newest record.
pub(super) async fn append(
    conn: &mut SqliteConnection,
    host: &str,
    now_ms: u64,
    entries: &[AuditEntry],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let rows = fetch(&mut *conn, audit::HEAD, args![]).await?;
    let row = rows.first().ok_or_else(StoreError::missing_row)?;
    let (records, head) = audit::chain(audit::position(row, 0)?, entries, host, now_ms);
    for record in &records {
        execute(&mut *conn, audit::INSERT, record_args!(args, record)).await?;
    }
    execute(conn, audit::SET_HEAD, args![head.pos, head.hash.as_str()]).await?;
    Ok(())
}

impl Operation for AuditEntry {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for AuditEntry {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        writer.audit(self.clone()).await
    }
}

/// Records something that the log does not have yet.
pub(super) struct Once(pub(super) AuditEntry);

impl Operation for Once {
    type Reply = bool;
}

#[async_trait]
impl SingleOperation for Once {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<bool, StoreError> {
        let Self(entry) = self;
        let known = fetch(&mut *writer.conn, audit::KNOWN, known_args!(args, entry)).await?;
        if !known.is_empty() {
            return Ok(false);
        }
        writer.audit(entry.clone()).await?;
        Ok(true)
    }
}

/// Deletes the oldest records from before a time.
pub(super) struct Prune {
    pub(super) before_ms: u64,
}

impl Operation for Prune {
    type Reply = u64;
}

#[async_trait]
impl SingleOperation for Prune {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<u64, StoreError> {
        let args = args![self.before_ms as i64, audit::PRUNED_MAX];
        let rows = fetch(&mut *writer.conn, audit::LAST_OLD, args).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let anchor = audit::position(row, 0)?;
        let args = args![anchor.pos, anchor.hash.as_str()];
        execute(&mut *writer.conn, audit::SET_ANCHOR, args).await?;
        execute(&mut *writer.conn, audit::DELETE, args![anchor.pos]).await
    }
}
