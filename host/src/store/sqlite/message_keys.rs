//! The keys with which the host signs its messages.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::domain::actor::Actor;
use crate::store::message_keys::{self, ADD, ADD_FIRST, ALL, KEYS_MAX, REMOVE};
use crate::store::transaction::Operation;
use crate::store::{KeyAdded, KeyRemoved, MessageKey, StoreError};

async fn all(writer: &mut Writer<'_>) -> Result<Vec<MessageKey>, StoreError> {
    message_keys::decode(&fetch(&mut *writer.conn, ALL, args![]).await?)
}

/// Adds the first key, if there is none; returns all.
pub(super) struct AddFirst(pub(super) MessageKey);

impl Operation for AddFirst {
    type Reply = Vec<MessageKey>;
}

#[async_trait]
impl SingleOperation for AddFirst {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Vec<MessageKey>, StoreError> {
        let MessageKey { id, secret, created_at_ms } = &self.0;
        let args = args![id.as_str(), secret.as_slice(), *created_at_ms as i64];
        execute(writer.conn, ADD_FIRST, args).await?;
        all(writer).await
    }
}

/// Adds a key.
pub(super) struct Add {
    pub(super) key: MessageKey,
    pub(super) actor: Actor,
}

impl Operation for Add {
    type Reply = KeyAdded;
}

#[async_trait]
impl SingleOperation for Add {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<KeyAdded, StoreError> {
        let MessageKey { id, secret, created_at_ms } = &self.key;
        let most = KEYS_MAX as i64;
        let args = args![id.as_str(), secret.as_slice(), *created_at_ms as i64, most];
        if execute(&mut *writer.conn, ADD, args).await? > 0 {
            writer.audit(message_keys::audit_added(&self.actor, id)).await?;
        }
        Ok(message_keys::added(all(writer).await?, id))
    }
}

/// Removes a key that is not the newest.
pub(super) struct Remove {
    pub(super) id: String,
    pub(super) actor: Actor,
}

impl Operation for Remove {
    type Reply = KeyRemoved;
}

#[async_trait]
impl SingleOperation for Remove {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<KeyRemoved, StoreError> {
        let deleted = fetch(&mut *writer.conn, REMOVE, args![self.id.as_str()]).await?;
        if !deleted.is_empty() {
            writer.audit(message_keys::audit_removed(&self.actor, &self.id)).await?;
        }
        let left = all(writer).await?;
        Ok(message_keys::removed(!deleted.is_empty(), &left, &self.id))
    }
}
