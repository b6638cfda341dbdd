//! Wraps the keys of subjects again.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::read::Readers;
use super::sql::{args, execute, fetch, json};
use crate::domain::actor::Actor;
use crate::domain::encryption::SHARED;
use crate::store::data_keys::{self, BATCH, REWRAP_MAX};
use crate::store::sealed::{self, SHARED_KEYS};
use crate::store::transaction::Operation;
use crate::store::{DataKeyCount, Rewrapped, StoreError};

/// One batch, after a position.
pub(super) struct Rewrap {
    pub(super) after: i64,
    pub(super) actor: Actor,
}

impl Operation for Rewrap {
    type Reply = Rewrapped;
}

#[async_trait]
impl SingleOperation for Rewrap {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Rewrapped, StoreError> {
        let Writer { conn, context, .. } = writer;
        let encryption = &context.encryption;
        let rows = fetch(&mut **conn, BATCH, args![self.after, REWRAP_MAX]).await?;
        let (mut result, changed) = data_keys::rewrap(&rows, encryption)?;
        let sql = "UPDATE subjects SET data_key = k.value ->> 2 FROM json_each(?1) k \
                   WHERE subjects.pos = k.value ->> 0 AND subjects.data_key = k.value ->> 1";
        execute(conn, sql, args![json(&changed)]).await?;
        if self.after == 0 {
            for key in sealed::shared_keys(&fetch(&mut **conn, SHARED_KEYS, args![]).await?)? {
                let Some(again) = encryption.wrapped_again(SHARED, &key.wrapped) else { continue };
                let sql = "UPDATE shared_keys SET wrapped = ?2 WHERE number = ?1";
                result.wrapped +=
                    execute(conn, sql, args![i64::from(key.number), again.as_str()]).await?;
            }
        }
        if result.wrapped > 0 {
            writer.audit(data_keys::audited(&self.actor, result.wrapped)).await?;
        }
        Ok(result)
    }
}

pub(super) async fn counts(db: &Readers) -> Result<Vec<DataKeyCount>, StoreError> {
    let sql = "SELECT k.id, count(*) FROM (SELECT substr(data_key, 1, instr(data_key, ':') - 1) AS id \
               FROM subjects WHERE data_key IS NOT NULL UNION ALL \
               SELECT substr(wrapped, 1, instr(wrapped, ':') - 1) FROM shared_keys) k \
               GROUP BY k.id ORDER BY k.id";
    data_keys::counts(&fetch(&**db, sql, args![]).await?)
}
