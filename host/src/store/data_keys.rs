//! The keys of subjects, wrapped again after a rotation of the key that wraps them.

use serde_json::{Value, json};

use super::decode::Columns;
use super::{AuditEntry, StoreError};
use crate::domain::actor::Actor;
use crate::domain::encryption::Encryption;

/// The record of a batch that changed something.
pub(super) fn audited(actor: &Actor, wrapped: u64) -> AuditEntry {
    let after = json!({ "wrapped": wrapped });
    AuditEntry::new(actor, "encryption.rewrap", "encryption").change(Value::Null, after)
}

/// Keys that one batch examines.
pub const REWRAP_MAX: i64 = 2_000;

/// What one batch wrapped again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Keys that the primary key now wraps.
    pub wrapped: u64,
    /// Keys that could not be unwrapped: the key that wraps them is not in the ring.
    pub lost: u64,
    /// Where the next batch begins; none: this was the last one.
    pub next: Option<i64>,
}

/// Keys by the id of the key that wraps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyCount {
    /// The id.
    pub id: String,
    /// How many it wraps.
    pub count: u64,
}

/// A batch: position, subject, wrapped key. Its first position and its size are placeholders.
pub(super) const BATCH: &str = "SELECT pos, key, data_key FROM subjects WHERE pos > $1 AND data_key IS NOT NULL ORDER BY pos LIMIT $2";

/// Position of a subject, its wrapped key before, and after.
pub(super) type Change = (i64, String, String);

/// The keys of a batch that are wrapped again.
pub(super) fn rewrap(
    rows: &[impl Columns],
    encryption: &Encryption,
) -> Result<(Rewrapped, Vec<Change>), StoreError> {
    let mut result = Rewrapped::default();
    let mut changed = Vec::new();
    for row in rows {
        let (pos, subject, wrapped) = (row.int(0)?, row.text(1)?, row.text(2)?);
        if rows.len() as i64 == REWRAP_MAX {
            result.next = Some(pos);
        }
        match encryption.wrapped_again(subject, wrapped) {
            Some(again) => changed.push((pos, wrapped.to_owned(), again)),
            None if encryption.key_of(subject, Some(wrapped)).is_err() => result.lost += 1,
            None => {}
        }
    }
    result.wrapped = changed.len() as u64;
    Ok((result, changed))
}

pub(super) fn counts(rows: &[impl Columns]) -> Result<Vec<DataKeyCount>, StoreError> {
    rows.iter().map(|row| Ok(DataKeyCount { id: row.owned(0)?, count: row.unsigned(1)? })).collect()
}
