//! The audit log: one record for each write of an operator, in the transaction of the write.
//!
//! Guarantee: a record that was changed or removed is found. Each one has a hash over itself and the
//! hash of the one before; the head has that of the newest one, and the anchor that of the newest one
//! that retention deleted. Anyone who can write to the database can make a new chain: a copy of the head
//! elsewhere shows that. Costs: only writers of records wait for each other, from their record to
//! their commit.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::decode::Columns;
use super::{Direction, StoreError};
use crate::domain::actor::Actor;
use crate::domain::event::hex;

/// What an operator did, to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Who.
    pub actor: Actor,
    /// What was done, such as `stage.pause`.
    pub action: &'static str,
    /// To what, such as `stage/payment`.
    pub object: String,
    /// What it was before.
    pub before: Option<Value>,
    /// What it is now.
    pub after: Option<Value>,
    /// Why.
    pub reason: Option<String>,
    /// Whether it was done.
    pub outcome: AuditOutcome,
}

/// Whether something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was refused, or failed.
    Refused,
}

impl AuditOutcome {
    /// Its name in the store.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

impl AuditEntry {
    /// Something that was done.
    pub fn new(actor: &Actor, action: &'static str, object: impl Into<String>) -> Self {
        Self {
            actor: actor.clone(),
            action,
            object: object.into(),
            before: None,
            after: None,
            reason: None,
            outcome: AuditOutcome::Done,
        }
    }

    /// With what it changed.
    #[must_use]
    pub fn change(self, before: Value, after: Value) -> Self {
        // `null` in JSON is no value: a reader cannot tell them apart.
        let value = |value: Value| Some(value).filter(|value| !value.is_null());
        Self { before: value(before), after: value(after), ..self }
    }

    /// With a reason.
    #[must_use]
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// The record that follows `head`.
    fn after(&self, head: &AuditPosition, host: &str, at_ms: u64) -> AuditRecord {
        let mut record = AuditRecord {
            pos: head.pos + 1,
            at_ms,
            host: host.to_owned(),
            actor: RecordedActor {
                kind: self.actor.kind().to_owned(),
                id: self.actor.id().to_owned(),
                address: self.actor.address().map(|address| address.to_string()),
            },
            action: self.action.to_owned(),
            object: self.object.clone(),
            before: self.before.as_ref().and_then(raw),
            after: self.after.as_ref().and_then(raw),
            reason: self.reason.clone(),
            outcome: self.outcome,
            hash: String::new(),
        };
        record.hash = record.hash_after(&head.hash);
        record
    }
}

fn raw(value: &Value) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}

/// A record of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Position in the log: there are no gaps.
    pub pos: i64,
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// The host that did it.
    pub host: String,
    /// Who.
    pub actor: RecordedActor,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// What it was before.
    pub before: Option<Box<RawValue>>,
    /// What it was then.
    pub after: Option<Box<RawValue>>,
    /// Why.
    pub reason: Option<String>,
    /// Whether it was done.
    pub outcome: AuditOutcome,
    /// Over this record and the hash of the one before: SHA-256, in hex.
    pub hash: String,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedActor {
    /// How it was authenticated.
    pub kind: String,
    /// What identifies it.
    pub id: String,
    /// Where it acted from.
    pub address: Option<String>,
}

impl AuditRecord {
    /// The hash that it must have after the record with the hash `previous`.
    pub fn hash_after(&self, previous: &str) -> String {
        let text = |value: &Option<Box<RawValue>>| value.as_ref().map(|raw| raw.get().to_owned());
        let content = (
            (previous, self.pos, self.at_ms, &self.host),
            (&self.actor.kind, &self.actor.id, &self.actor.address),
            (&self.action, &self.object, text(&self.before), text(&self.after)),
            (&self.reason, self.outcome.name()),
        );
        let content = serde_json::to_vec(&content).expect("texts and numbers always serialise");
        hex(&Sha256::digest(content))
    }

    /// Its position.
    pub fn position(&self) -> AuditPosition {
        AuditPosition { pos: self.pos, hash: self.hash.clone() }
    }
}

/// A record's position and hash; position 0 is before the first record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPosition {
    /// The position.
    pub pos: i64,
    /// The hash.
    pub hash: String,
}

impl fmt::Display for AuditPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pos, self.hash)
    }
}

impl AuditPosition {
    /// Moves on to the next record; the error says what is wrong with it.
    pub fn advance(&mut self, record: &AuditRecord) -> Result<(), String> {
        let expected = self.pos + 1;
        if record.pos != expected {
            return Err(format!("record {expected} is missing: record {} follows", record.pos));
        }
        if record.hash != record.hash_after(&self.hash) {
            let before = self.pos;
            return Err(format!(
                "record {expected} was changed, or does not follow record {before}"
            ));
        }
        *self = record.position();
        Ok(())
    }
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Filter by the id of the actor.
    pub actor: Option<String>,
    /// Filter by action.
    pub action: Option<String>,
    /// Filter by object.
    pub object: Option<String>,
    /// At or after, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Before, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// The position after which the page starts; none: at the end from which it is read.
    pub after: Option<i64>,
    /// From which end the page is read.
    pub direction: Direction,
    /// Page size.
    pub limit: u32,
}

impl AuditFilter {
    /// The condition on what follows a position, in the order of the page.
    pub(super) const fn beyond(&self) -> &'static str {
        match self.direction {
            Direction::Oldest => "pos >",
            Direction::Newest => "pos <",
        }
    }
}

/// A page of the audit log.
#[derive(Debug, Clone)]
pub struct AuditPage {
    /// The records.
    pub records: Vec<AuditRecord>,
    /// Cursor of the next page; none at the end.
    pub next: Option<i64>,
    /// The newest record that retention deleted.
    pub anchor: AuditPosition,
    /// The newest record.
    pub head: AuditPosition,
}

macro_rules! columns {
    () => {
        "pos, at_ms, host, actor_kind, actor_id, address, action, object, before, after, reason, \
         outcome, hash"
    };
}

/// Most records that one call deletes.
pub(super) const PRUNED_MAX: i64 = 5_000;

/// The newest record, and the newest one that was deleted.
pub(super) const ENDS: &str = "SELECT pos, hash, anchor_pos, anchor_hash FROM audit_head";
/// The newest record; in Postgres, writers of records wait here for each other.
#[cfg(feature = "sqlite")]
pub(super) const HEAD: &str = "SELECT pos, hash FROM audit_head";
#[cfg(feature = "postgres")]
pub(super) const LOCKED_HEAD: &str = "SELECT pos, hash FROM audit_head FOR UPDATE";
pub(super) const SET_HEAD: &str = "UPDATE audit_head SET pos = $1, hash = $2";
pub(super) const SET_ANCHOR: &str = "UPDATE audit_head SET anchor_pos = $1, anchor_hash = $2";
/// Inserts a record: [`record_args`].
pub(super) const INSERT: &str = concat!(
    "INSERT INTO audit (",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
);
/// A record of an action on an object with a result: [`known_args`].
pub(super) const KNOWN: &str = "SELECT 1 FROM audit WHERE object = $1 AND action = $2 AND \
     coalesce(after, '') = $3 LIMIT 1";
/// The newest record before a time that retention deletes, of so many oldest ones: time, limit.
pub(super) const LAST_OLD: &str = "SELECT pos, hash FROM (SELECT pos, hash, at_ms FROM audit \
     ORDER BY pos LIMIT $2) oldest WHERE pos < (SELECT coalesce(min(kept.pos), \
     9223372036854775807) FROM audit kept WHERE kept.at_ms >= $1) ORDER BY pos DESC LIMIT 1";
pub(super) const DELETE: &str = "DELETE FROM audit WHERE pos <= $1";
/// The columns of a record.
pub(super) const COLUMNS: &str = columns!();

/// The columns of a record as arguments, made by the macro of a database.
macro_rules! record_args {
    ($args:ident, $record:expr) => {
        $args![
            $record.pos,
            $record.at_ms as i64,
            $record.host.as_str(),
            $record.actor.kind.as_str(),
            $record.actor.id.as_str(),
            $record.actor.address.as_deref(),
            $record.action.as_str(),
            $record.object.as_str(),
            $record.before.as_ref().map(|value| value.get()),
            $record.after.as_ref().map(|value| value.get()),
            $record.reason.as_deref(),
            $record.outcome.name(),
            $record.hash.as_str(),
        ]
    };
}
pub(super) use record_args;

/// The arguments of [`KNOWN`], made by the macro of a database.
macro_rules! known_args {
    ($args:ident, $entry:expr) => {{
        let after = $entry.after.as_ref().map(ToString::to_string).unwrap_or_default();
        $args![$entry.object.as_str(), $entry.action, after]
    }};
}
pub(super) use known_args;

/// The records of what was done, each after the one before; the first one follows `head`.
pub(super) fn chain(
    mut head: AuditPosition,
    entries: &[AuditEntry],
    host: &str,
    at_ms: u64,
) -> (Vec<AuditRecord>, AuditPosition) {
    let records = entries.iter().map(|entry| {
        let record = entry.after(&head, host, at_ms);
        head = record.position();
        record
    });
    (records.collect(), head)
}

/// Decodes a position and a hash, from this column on.
pub(super) fn position(row: &impl Columns, at: usize) -> Result<AuditPosition, StoreError> {
    Ok(AuditPosition { pos: row.int(at)?, hash: row.owned(at + 1)? })
}

/// Decodes [`COLUMNS`].
pub(super) fn record(row: &impl Columns) -> Result<AuditRecord, StoreError> {
    let json = |at| {
        let text = row.maybe_owned(at)?;
        // A value that is no JSON any more was changed: its text is shown, and the hash differs.
        let read = |text: String| {
            RawValue::from_string(text.clone()).ok().or_else(|| raw(&Value::from(text)))
        };
        Ok::<_, StoreError>(text.and_then(read))
    };
    Ok(AuditRecord {
        pos: row.int(0)?,
        at_ms: row.unsigned(1)?,
        host: row.owned(2)?,
        actor: RecordedActor {
            kind: row.owned(3)?,
            id: row.owned(4)?,
            address: row.maybe_owned(5)?,
        },
        action: row.owned(6)?,
        object: row.owned(7)?,
        before: json(8)?,
        after: json(9)?,
        reason: row.maybe_owned(10)?,
        outcome: match row.text(11)? {
            "done" => AuditOutcome::Done,
            "refused" => AuditOutcome::Refused,
            other => return Err(StoreError::Corrupt(format!("unknown outcome `{other}`"))),
        },
        hash: row.owned(12)?,
    })
}
