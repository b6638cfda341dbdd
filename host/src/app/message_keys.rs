//! The keys with which hosts sign their messages: list, add and remove.

use super::App;
use super::audit::actor;
use crate::store::{KeyAdded, KeyRemoved, MessageKey, StoreError};

/// A key with which hosts sign their messages, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessageKeyInfo {
    /// Its name, which messages show.
    pub(crate) id: String,
    /// When it was added, milliseconds since 1970-01-01 UTC.
    pub(crate) created_at_ms: u64,
    /// Whether hosts sign with it: it is the newest one. Messages that are signed with another one are
    /// accepted until it is removed.
    pub(crate) signs: bool,
}

/// The result of adding a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub(crate) enum KeyRotation {
    /// All keys, the new one first.
    Rotated(Vec<MessageKeyInfo>),
    /// There are so many keys that old ones have to be removed first.
    TooMany,
    /// The broker is in memory: nothing is signed.
    NothingSigned,
}

impl App {
    /// Returns the keys with which the hosts of this namespace sign their messages, the newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn message_keys(&self) -> Result<Vec<MessageKeyInfo>, StoreError> {
        Ok(infos(&self.services.store.message_keys().await?))
    }

    /// Adds a key with which hosts sign from now on: this one at once, the others within seconds. Messages
    /// that are signed with older keys are still accepted.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn rotate_message_key(&self) -> Result<KeyRotation, StoreError> {
        let (store, broker) = (&self.services.store, &self.services.broker);
        if !broker.signs() {
            return Ok(KeyRotation::NothingSigned);
        }
        let key = MessageKey::generate(self.services.clock.now_ms());
        let KeyAdded::Added(all) = store.add_message_key(key, &actor()).await? else {
            return Ok(KeyRotation::TooMany);
        };
        broker.refresh_keys().await?;
        tracing::info!(key = %all[0].id, "messages are signed with a new key");
        Ok(KeyRotation::Rotated(infos(&all)))
    }

    /// Removes a key that is not the newest. Messages that are signed with it and wait in a queue are no
    /// longer trusted: their deliveries are taken from the store.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn remove_message_key(&self, id: &str) -> Result<KeyRemoved, StoreError> {
        if id.contains('\0') {
            return Ok(KeyRemoved::NotFound);
        }
        let removed = self.services.store.remove_message_key(id, &actor()).await?;
        if removed == KeyRemoved::Removed {
            self.services.broker.refresh_keys().await?;
            tracing::info!(key = %id, "messages that are signed with a key are no longer accepted");
        }
        Ok(removed)
    }
}

/// The keys without their secrets; the first one signs.
fn infos(keys: &[MessageKey]) -> Vec<MessageKeyInfo> {
    let info = |(at, key): (usize, &MessageKey)| MessageKeyInfo {
        id: key.id.clone(),
        created_at_ms: key.created_at_ms,
        signs: at == 0,
    };
    keys.iter().enumerate().map(info).collect()
}
