//! The keys with which the hosts of a namespace sign their messages: shared through the store, so that
//! every host accepts what another one sent.
//!
//! The newest key signs; the others are accepted until an operator removes them. Bound:
//! [`KEYS_MAX`] keys.

use std::fmt;

use super::StoreError;
use super::audit::AuditEntry;
use super::decode::Columns;
use crate::domain::actor::Actor;

/// Most keys that a store keeps: each is accepted, so old ones have to be removed.
pub const KEYS_MAX: usize = 16;
/// Bytes of a secret.
pub const SECRET_BYTES: usize = 32;

/// A key with which hosts sign their messages.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageKey {
    /// Its name, which messages show: eight hexadecimal digits.
    pub id: String,
    /// Known to the hosts of the namespace only.
    pub secret: [u8; SECRET_BYTES],
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
}

impl MessageKey {
    /// A new key, by the operating system's randomness.
    pub fn generate(created_at_ms: u64) -> Self {
        let id: u32 = rand::random();
        Self { id: format!("{id:08x}"), secret: rand::random(), created_at_ms }
    }
}

/// Without the secret.
impl fmt::Debug for MessageKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, created_at_ms, .. } = self;
        formatter
            .debug_struct("MessageKey")
            .field("id", id)
            .field("created_at_ms", created_at_ms)
            .finish_non_exhaustive()
    }
}

/// The result of adding a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum KeyAdded {
    /// It signs from now on; all keys, the newest first.
    Added(Vec<MessageKey>),
    /// There are [`KEYS_MAX`] keys: remove old ones first.
    TooMany,
}

/// The result of removing a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum KeyRemoved {
    /// No host accepts it any more, once it has read the keys again.
    Removed,
    /// It is the newest one, with which hosts sign: add another one first.
    Newest,
    /// No key has this name.
    NotFound,
}

/// All keys, the newest first, for [`decode`].
pub(super) const ALL: &str = "SELECT id, secret, created_ms FROM message_keys ORDER BY number DESC";
/// Adds the first key, unless there is one: id, secret, time. Of several hosts that start at the same
/// time, one adds its key.
pub(super) const ADD_FIRST: &str = "INSERT INTO message_keys (number, id, secret, created_ms) SELECT 1, $1, $2, $3 WHERE NOT \
     EXISTS (SELECT 1 FROM message_keys) ON CONFLICT DO NOTHING";
/// Adds a key that is newer than all others: id, secret, time, most keys. Nothing is added when there
/// are so many.
pub(super) const ADD: &str = "INSERT INTO message_keys (number, id, secret, created_ms) SELECT coalesce(max(number), 0) + 1, \
     $1, $2, $3 FROM message_keys HAVING count(*) < $4";
/// Removes a key that is not the newest: its id.
pub(super) const REMOVE: &str = "DELETE FROM message_keys WHERE id = $1 AND number < (SELECT max(number) FROM message_keys) \
     RETURNING id";

pub(super) fn decode(rows: &[impl Columns]) -> Result<Vec<MessageKey>, StoreError> {
    let decoded = rows.iter().map(|row| {
        let secret = row.blob(1)?.try_into();
        let secret = secret
            .map_err(|_| StoreError::Corrupt(format!("a key has not {SECRET_BYTES} bytes")))?;
        Ok(MessageKey { id: row.owned(0)?, secret, created_at_ms: row.unsigned(2)? })
    });
    decoded.collect()
}

/// What became of a key that was to be removed.
pub(super) fn removed(was_deleted: bool, left: &[MessageKey], id: &str) -> KeyRemoved {
    match left.first() {
        _ if was_deleted => KeyRemoved::Removed,
        Some(newest) if newest.id == id => KeyRemoved::Newest,
        _ => KeyRemoved::NotFound,
    }
}

/// The record of a new key in the audit log.
pub(super) fn audit_added(actor: &Actor, id: &str) -> AuditEntry {
    AuditEntry::new(actor, "message-key.add", format!("message-key/{id}"))
}

/// The record of a key that was removed in the audit log.
pub(super) fn audit_removed(actor: &Actor, id: &str) -> AuditEntry {
    AuditEntry::new(actor, "message-key.remove", format!("message-key/{id}"))
}

/// What became of a key that was to be added.
pub(super) fn added(all: Vec<MessageKey>, id: &str) -> KeyAdded {
    if all.iter().any(|key| key.id == id) { KeyAdded::Added(all) } else { KeyAdded::TooMany }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_without_its_secret() {
        let key = MessageKey { secret: [7; SECRET_BYTES], ..MessageKey::generate(1) };
        assert_eq!(key.id.len(), 8);
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.id) && !shown.contains("7, 7"), "{shown}");
        assert_ne!(MessageKey::generate(1).secret, MessageKey::generate(1).secret);
    }
}
