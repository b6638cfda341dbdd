//! API keys and sessions, written one transaction at a time.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::domain::actor::Actor;
use crate::store::api_keys::{
    self, ApiKey, CreatedKey, NewApiKey, Session, key_args, session_args,
};

/// Writes a key. The lock keeps two hosts from giving a principal one key too many.
pub(super) async fn create(
    db: &Pool,
    context: &Context,
    new: &NewApiKey,
    actor: &Actor,
) -> Result<CreatedKey, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let lock = "LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE";
    execute(&mut transaction, lock, args![]).await?;
    let old_ms = api_keys::old_ms(transaction.now_ms());
    execute(&mut transaction, api_keys::DELETE_OLD, args![old_ms]).await?;
    let args = key_args!(args, new.key);
    let rows = fetch(&mut *transaction, api_keys::INSERT, args).await?;
    if rows.is_empty() {
        transaction.commit().await?;
        return Ok(CreatedKey::TooMany);
    }
    if let Some((id, expires_at_ms)) = &new.replaces {
        let args = args![id.as_str(), *expires_at_ms as i64];
        execute(&mut transaction, api_keys::EXPIRE, args).await?;
    }
    transaction.commit_with(context, api_keys::created(actor, new)).await?;
    Ok(CreatedKey::Created)
}

/// Revokes a key.
pub(super) async fn revoke(
    db: &Pool,
    context: &Context,
    (id, now_ms): (&str, u64),
    actor: &Actor,
) -> Result<Option<ApiKey>, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let rows = fetch(&mut *transaction, api_keys::REVOKE, args![id, now_ms as i64]).await?;
    if let Some(row) = rows.first() {
        let key = api_keys::decode(row)?;
        transaction.commit_with(context, api_keys::revoked(actor, &key)).await?;
        return Ok(Some(key));
    }
    let rows = fetch(&mut *transaction, api_keys::ONE, args![id]).await?;
    transaction.commit().await?;
    Ok(rows.first().map(api_keys::decode).transpose()?)
}

/// Records when keys were last used.
pub(super) async fn used(db: &Pool, used: &[(String, u64)]) -> Result<(), TransactionError> {
    for (id, at_ms) in used {
        fetch(db, api_keys::USED, args![id.as_str(), *at_ms as i64]).await?;
    }
    Ok(())
}

/// Writes a session, and deletes those that have expired.
pub(super) async fn create_session(
    db: &Pool,
    session: &Session,
    now_ms: u64,
) -> Result<(), TransactionError> {
    fetch(db, api_keys::DELETE_EXPIRED, args![now_ms as i64]).await?;
    fetch(db, api_keys::INSERT_SESSION, session_args!(args, session)).await?;
    Ok(())
}

/// Deletes a session; false if there is none.
pub(super) async fn delete_session(db: &Pool, digest: &str) -> Result<bool, TransactionError> {
    Ok(!fetch(db, api_keys::DELETE_SESSION, args![digest]).await?.is_empty())
}
