//! Bindings in use, and what an earlier run of the host held. There is one host at a time.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::operation::{SingleOperation, Writer};
use super::read::Readers;
use super::sql::{args, execute, fetch, json};
use crate::store::StoreError;
use crate::store::bindings::{self, KnownBindings, StageBinding};
use crate::store::hosts::{self, LiveHost, SharedSettings};
use crate::store::sealed;
use crate::store::transaction::Operation;

/// Releases what earlier runs held: leases of outbox rows, bindings in use, and hosts.
pub(super) async fn release(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    execute(
        conn,
        "UPDATE outbox SET owner = NULL, lease_until_ms = NULL WHERE owner IS NOT NULL",
        args![],
    )
    .await?;
    execute(conn, "UPDATE bindings SET seen_ms = 0", args![]).await?;
    execute(conn, "DELETE FROM hosts", args![]).await?;
    Ok(())
}

/// Records the bindings that this host uses, deletes outdated ones and returns all.
pub(super) struct RecordBindings {
    pub(super) used: Vec<StageBinding>,
    /// A binding that was not recorded for this long is unused.
    pub(super) live_ms: u64,
}

impl Operation for RecordBindings {
    type Reply = KnownBindings;
}

#[async_trait]
impl SingleOperation for RecordBindings {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<KnownBindings, StoreError> {
        let Writer { conn, context, now_ms } = writer;
        let (host, cut_ms) = (context.host.as_str(), now_ms.saturating_sub(self.live_ms) as i64);
        let now_ms = *now_ms as i64;
        for binding in &self.used {
            let sql = "INSERT INTO bindings (stage, pattern, host, seen_ms) \
                       VALUES ($1, $2, $3, $4) \
                       ON CONFLICT (stage, pattern, host) DO UPDATE SET seen_ms = excluded.seen_ms";
            let args = args![&*binding.stage, binding.pattern.as_str(), host, now_ms];
            execute(conn, sql, args).await?;
        }
        for binding in &self.used {
            // Releases the bindings that this host's version of a stage no longer uses.
            let sql =
                "UPDATE bindings SET seen_ms = 0 WHERE host = $1 AND seen_ms < $2 AND stage = $3";
            execute(conn, sql, args![host, now_ms, &*binding.stage]).await?;
        }
        execute(conn, bindings::DELETE_OUTLIVED, args![cut_ms]).await?;
        bindings::decode(&fetch(&mut **conn, bindings::KNOWN, args![cut_ms]).await?)
    }
}

/// Records that this host is live.
pub(super) struct RecordHost {
    pub(super) settings: SharedSettings,
    pub(super) report: String,
}

impl Operation for RecordHost {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for RecordHost {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let Writer { conn, context, now_ms } = writer;
        let host = context.host.as_str();
        let report = sealed::report(&context.encryption, host, &self.report);
        let args = args![host, *now_ms as i64, json(&self.settings), &*report];
        execute(conn, hosts::RECORD, args).await?;
        let gone_ms = now_ms.saturating_sub(hosts::KEPT_MS) as i64;
        execute(conn, hosts::DELETE_GONE, args![gone_ms]).await?;
        Ok(())
    }
}

/// The live hosts, by name.
pub(super) async fn live_hosts(db: &Readers, now_ms: u64) -> Result<Vec<LiveHost>, StoreError> {
    let sql =
        concat!("SELECT ", hosts::live_columns!(), " FROM hosts WHERE seen_ms > $1 ORDER BY host");
    let live_ms = now_ms.saturating_sub(hosts::LIVE_MS) as i64;
    hosts::decode_live(&fetch(&**db, sql, args![live_ms]).await?, &db.encryption)
}

/// Writes something: `SQLite` finds a full disk only when it writes.
pub(super) struct Probe;

impl Operation for Probe {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Probe {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO hosts (host, seen_ms, settings) VALUES ($1, $2, '{}') ON CONFLICT \
                   (host) DO UPDATE SET seen_ms = excluded.seen_ms";
        let args = args![writer.context.host.as_str(), writer.now_ms as i64];
        execute(writer.conn, sql, args).await?;
        Ok(())
    }
}

/// Deletes a binding; false when the host uses it.
pub(super) struct DeleteBinding {
    pub(super) binding: StageBinding,
    pub(super) live_ms: u64,
}

impl Operation for DeleteBinding {
    type Reply = bool;
}

#[async_trait]
impl SingleOperation for DeleteBinding {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<bool, StoreError> {
        let (stage, pattern) = (&*self.binding.stage, self.binding.pattern.as_str());
        let cut_ms = writer.now_ms.saturating_sub(self.live_ms) as i64;
        let sql = "DELETE FROM bindings WHERE stage = $1 AND pattern = $2 AND seen_ms <= $3";
        execute(writer.conn, sql, args![stage, pattern, cut_ms]).await?;
        let sql = "SELECT 1 FROM bindings WHERE stage = $1 AND pattern = $2";
        Ok(fetch(&mut *writer.conn, sql, args![stage, pattern]).await?.is_empty())
    }
}
