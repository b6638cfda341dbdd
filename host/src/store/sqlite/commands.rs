//! What hosts ask each other to do. There is one host at a time, so there are commands only in tests.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::read::Readers;
use super::sql::{args, execute, fetch, json};
use crate::store::commands::{self, ANSWER, DELETE_OLD, KEPT_MS, SEND, TAKE, TAKEN_MAX, VALID_MS};
use crate::store::decode::Columns as _;
use crate::store::transaction::Operation;
use crate::store::{NewCommand, StoreError, TakenCommand};

/// Writes commands.
pub(super) struct Send(pub(super) Vec<NewCommand>);

impl Operation for Send {
    type Reply = Vec<i64>;
}

#[async_trait]
impl SingleOperation for Send {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Vec<i64>, StoreError> {
        let Writer { conn, now_ms, .. } = writer;
        let old_ms = now_ms.saturating_sub(KEPT_MS) as i64;
        execute(conn, DELETE_OLD, args![old_ms]).await?;
        let mut ids = Vec::with_capacity(self.0.len());
        for NewCommand { host, command } in &self.0 {
            let args = args![host.as_str(), command.as_str(), *now_ms as i64];
            for row in fetch(&mut **conn, SEND, args).await? {
                ids.push(row.int(0)?);
            }
        }
        Ok(ids)
    }
}

/// Takes the commands of this host.
pub(super) struct Take;

impl Operation for Take {
    type Reply = Vec<TakenCommand>;
}

#[async_trait]
impl SingleOperation for Take {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<Vec<TakenCommand>, StoreError> {
        let Writer { conn, context, now_ms } = writer;
        let since_ms = now_ms.saturating_sub(VALID_MS) as i64;
        let args = args![context.host.as_str(), *now_ms as i64, since_ms, TAKEN_MAX];
        commands::decode(&fetch(&mut **conn, TAKE, args).await?)
    }
}

/// Answers a command of this host.
pub(super) struct Answer {
    pub(super) id: i64,
    pub(super) answer: String,
}

impl Operation for Answer {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Answer {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let Writer { conn, context, .. } = writer;
        execute(conn, ANSWER, args![self.id, self.answer.as_str(), context.host.as_str()]).await?;
        Ok(())
    }
}

/// The answers to commands.
pub(super) async fn answers(db: &Readers, ids: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
    let sql = "SELECT c.id, c.answer FROM json_each($1) k JOIN host_commands c ON c.id = k.value \
               WHERE c.answer IS NOT NULL ORDER BY c.id";
    commands::decode_answers(&fetch(&**db, sql, args![json(ids)]).await?)
}
