//! Log levels that operators set for stages.

use serde_json::{Value, json};

use super::decode::Columns;
use super::queries::Reader;
use super::{AuditEntry, StoreError};
use crate::domain::actor::Actor;
use crate::domain::log_level::LogLevel;

/// The log level that an operator set for a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageLogLevel {
    /// The stage.
    pub stage: String,
    /// The level.
    pub level: LogLevel,
    /// When it was set, milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When it ends, milliseconds since 1970-01-01 UTC; none: when an operator ends it.
    pub until_ms: Option<u64>,
}

impl StageLogLevel {
    /// Whether it holds at that time.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }
}

/// A log level that is set.
#[derive(Debug, Clone)]
pub struct LogLevelChange {
    /// The stage.
    pub stage: String,
    /// The level; none: that of the process.
    pub level: Option<LogLevel>,
    /// When it ends, milliseconds since 1970-01-01 UTC; none: when an operator ends it.
    pub until_ms: Option<u64>,
    /// Why, for the audit log.
    pub reason: Option<String>,
    /// Who sets it.
    pub actor: Actor,
}

const ALL: &str = "SELECT stage, level, since_ms, until_ms FROM stage_log_levels ORDER BY stage";

/// The level of a stage: stage.
pub(super) const ONE: &str =
    "SELECT stage, level, since_ms, until_ms FROM stage_log_levels WHERE stage = $1";

/// Sets a level: stage, level, now, until.
pub(super) const SET: &str = "INSERT INTO stage_log_levels (stage, level, since_ms, until_ms) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (stage) DO UPDATE SET level = excluded.level, \
     since_ms = excluded.since_ms, until_ms = excluded.until_ms";

/// Removes the level of a stage: stage.
pub(super) const REMOVE: &str = "DELETE FROM stage_log_levels WHERE stage = $1";

/// All of them.
pub(super) async fn list(db: &impl Reader) -> Result<Vec<StageLogLevel>, StoreError> {
    db.rows(ALL.to_owned(), &[]).await?.iter().map(decode).collect()
}

/// Decodes stage, level, since and until.
pub(super) fn decode(row: &impl Columns) -> Result<StageLogLevel, StoreError> {
    let level = row.text(1)?;
    Ok(StageLogLevel {
        stage: row.owned(0)?,
        level: level.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))?,
        since_ms: row.unsigned(2)?,
        until_ms: row.maybe_int(3)?.map(|value| value as u64),
    })
}

impl LogLevelChange {
    /// The level that holds from now on.
    pub(super) fn level(&self, now_ms: u64) -> Option<StageLogLevel> {
        let (stage, until_ms) = (self.stage.clone(), self.until_ms);
        self.level.map(|level| StageLogLevel { stage, level, since_ms: now_ms, until_ms })
    }

    /// Its record in the audit log, given the level before; none if it changes nothing.
    pub(super) fn audited(
        &self,
        before: Option<&StageLogLevel>,
        now_ms: u64,
    ) -> Option<AuditEntry> {
        let before = before.filter(|before| before.holds(now_ms));
        let after = self.level(now_ms);
        if before.is_none() && after.is_none() {
            return None;
        }
        let object = format!("stage/{}", self.stage);
        let entry = AuditEntry::new(&self.actor, "stage.log-level", object);
        let entry = entry.because(self.reason.clone());
        Some(entry.change(shown(before), shown(after.as_ref())))
    }
}

fn shown(level: Option<&StageLogLevel>) -> Value {
    match level {
        Some(level) => json!({ "level": level.level, "until_ms": level.until_ms }),
        None => json!({ "level": "default", "until_ms": null }),
    }
}
