//! API keys and sessions, written on the writer's connection.

use async_trait::async_trait;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::domain::actor::Actor;
use crate::store::StoreError;
use crate::store::api_keys::{
    self, ApiKey, CreatedKey, NewApiKey, Session, key_args, session_args,
};
use crate::store::transaction::Operation;

/// Writes a key.
pub(super) struct CreateKey {
    pub(super) new: NewApiKey,
    pub(super) actor: Actor,
}

impl Operation for CreateKey {
    type Reply = CreatedKey;
}

#[async_trait]
impl SingleOperation for CreateKey {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<CreatedKey, StoreError> {
        execute(writer.conn, api_keys::DELETE_OLD, args![api_keys::old_ms(writer.now_ms)]).await?;
        let args = key_args!(args, self.new.key);
        if fetch(&mut *writer.conn, api_keys::INSERT, args).await?.is_empty() {
            return Ok(CreatedKey::TooMany);
        }
        if let Some((id, expires_at_ms)) = &self.new.replaces {
            let args = args![id.as_str(), *expires_at_ms as i64];
            execute(writer.conn, api_keys::EXPIRE, args).await?;
        }
        writer.audit(api_keys::created(&self.actor, &self.new)).await?;
        Ok(CreatedKey::Created)
    }
}

/// Revokes a key.
pub(super) struct RevokeKey {
    pub(super) id: String,
    pub(super) now_ms: u64,
    pub(super) actor: Actor,
}

impl Operation for RevokeKey {
    type Reply = Option<ApiKey>;
}

#[async_trait]
impl SingleOperation for RevokeKey {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<Option<ApiKey>, StoreError> {
        let args = args![self.id.as_str(), self.now_ms as i64];
        let rows = fetch(&mut *writer.conn, api_keys::REVOKE, args).await?;
        if let Some(row) = rows.first() {
            let key = api_keys::decode(row)?;
            writer.audit(api_keys::revoked(&self.actor, &key)).await?;
            return Ok(Some(key));
        }
        let rows = fetch(&mut *writer.conn, api_keys::ONE, args![self.id.as_str()]).await?;
        rows.first().map(api_keys::decode).transpose()
    }
}

/// Records when keys were last used.
pub(super) struct KeysUsed(pub(super) Vec<(String, u64)>);

impl Operation for KeysUsed {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for KeysUsed {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        for (id, at_ms) in &self.0 {
            let args = args![id.as_str(), *at_ms as i64];
            execute(writer.conn, api_keys::USED, args).await?;
        }
        Ok(())
    }
}

impl Operation for Session {
    type Reply = ();
}

#[async_trait]
impl SingleOperation for Session {
    const CHANGES_WORK: bool = false;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        execute(writer.conn, api_keys::DELETE_EXPIRED, args![writer.now_ms as i64]).await?;
        execute(writer.conn, api_keys::INSERT_SESSION, session_args!(args, self)).await?;
        Ok(())
    }
}

/// Deletes a session; false if there is none.
pub(super) struct DeleteSession(pub(super) String);

impl Operation for DeleteSession {
    type Reply = bool;
}

#[async_trait]
impl SingleOperation for DeleteSession {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<bool, StoreError> {
        let args = args![self.0.as_str()];
        Ok(!fetch(&mut *writer.conn, api_keys::DELETE_SESSION, args).await?.is_empty())
    }
}
