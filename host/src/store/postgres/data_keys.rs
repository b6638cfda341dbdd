//! Wraps the keys of subjects again.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, columns, execute, fetch};
use super::transaction::PooledTransaction;
use crate::domain::actor::Actor;
use crate::domain::encryption::SHARED;
use crate::store::data_keys::{self, BATCH, REWRAP_MAX};
use crate::store::sealed::{self, SHARED_KEYS};
use crate::store::{DataKeyCount, Rewrapped};

/// One batch, after a position. A key that another host changes meanwhile is left to it.
pub(super) async fn rewrap(
    db: &Pool,
    context: &Context,
    after: i64,
    actor: &Actor,
) -> Result<Rewrapped, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let encryption = &context.encryption;
    let rows = fetch(&mut *transaction, BATCH, args![after, REWRAP_MAX]).await?;
    let (mut result, changed) = data_keys::rewrap(&rows, encryption)?;
    let sql = "UPDATE subjects sub SET data_key = k.after FROM unnest($1::int8[], $2::text[], \
               $3::text[]) k (pos, before, after) WHERE sub.pos = k.pos AND sub.data_key = k.before";
    let args = columns![&changed; |key| key.0, |key| key.1.as_str(), |key| key.2.as_str()];
    execute(&mut transaction, sql, args).await?;
    if after == 0 {
        let shared = sealed::shared_keys(&fetch(&mut *transaction, SHARED_KEYS, args![]).await?)?;
        for key in shared {
            let Some(again) = encryption.wrapped_again(SHARED, &key.wrapped) else { continue };
            let sql = "UPDATE shared_keys SET wrapped = $2 WHERE number = $1";
            let args = args![i64::from(key.number), again.as_str()];
            result.wrapped += execute(&mut transaction, sql, args).await?;
        }
    }
    match result.wrapped {
        0 => transaction.commit().await?,
        wrapped => transaction.commit_with(context, data_keys::audited(actor, wrapped)).await?,
    }
    Ok(result)
}

pub(super) async fn counts(db: &Pool) -> Result<Vec<DataKeyCount>, TransactionError> {
    let sql = "SELECT k.id, count(*) FROM (SELECT split_part(data_key, ':', 1) AS id FROM subjects \
               WHERE data_key IS NOT NULL UNION ALL SELECT split_part(wrapped, ':', 1) FROM \
               shared_keys) k GROUP BY k.id ORDER BY k.id";
    Ok(data_keys::counts(&fetch(db, sql, args![]).await?)?)
}
