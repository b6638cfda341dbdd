//! The keys with which hosts sign their messages.

use super::Context;
use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use crate::domain::actor::Actor;
use crate::store::message_keys::{self, ADD, ADD_FIRST, ALL, KEYS_MAX, REMOVE};
use crate::store::{KeyAdded, KeyRemoved, MessageKey};

async fn all(db: &Pool) -> Result<Vec<MessageKey>, TransactionError> {
    Ok(message_keys::decode(&fetch(db, ALL, args![]).await?)?)
}

/// All keys, after `first` was added if there was none.
pub(super) async fn all_or(
    db: &Pool,
    first: &MessageKey,
) -> Result<Vec<MessageKey>, TransactionError> {
    let found = all(db).await?;
    if !found.is_empty() {
        return Ok(found);
    }
    let args = args![first.id.as_str(), first.secret.as_slice(), first.created_at_ms as i64];
    fetch(db, ADD_FIRST, args).await?;
    all(db).await
}

/// Adds a key.
pub(super) async fn add(
    db: &Pool,
    context: &Context,
    key: &MessageKey,
    actor: &Actor,
) -> Result<KeyAdded, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let (id, secret) = (key.id.as_str(), key.secret.as_slice());
    let args = args![id, secret, key.created_at_ms as i64, KEYS_MAX as i64];
    match execute(&mut transaction, ADD, args).await? {
        0 => transaction.commit().await?,
        _ => transaction.commit_with(context, message_keys::audit_added(actor, id)).await?,
    }
    Ok(message_keys::added(all(db).await?, id))
}

/// Removes a key that is not the newest.
pub(super) async fn remove(
    db: &Pool,
    context: &Context,
    id: &str,
    actor: &Actor,
) -> Result<KeyRemoved, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let was_deleted = !fetch(&mut *transaction, REMOVE, args![id]).await?.is_empty();
    if was_deleted {
        transaction.commit_with(context, message_keys::audit_removed(actor, id)).await?;
    } else {
        transaction.commit().await?;
    }
    Ok(message_keys::removed(was_deleted, &all(db).await?, id))
}
