//! What a store keeps about stages: plugin loads, and the state that operators set.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::decode::{Columns, control_name};
use super::{AuditEntry, StoreError};
use crate::domain::actor::Actor;
/// A load of a plugin on this host.
#[derive(Debug, Clone)]
pub struct PluginLoad {
    /// The stage.
    pub stage: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Its own version.
    pub version: String,
    /// The host.
    pub host: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: u64,
}

/// The state that an operator set for a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlState {
    /// It runs.
    Running,
    /// It finishes its current batches and holds further messages.
    Paused,
    /// It finishes the messages that its hosts hold and receives no more.
    Draining,
}

/// The control state of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageControl {
    /// The stage.
    pub stage: String,
    /// The state.
    pub state: ControlState,
    /// Why.
    pub reason: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When it last stopped running: events that expired since then stay valid until a whole expiry
    /// period after the resume.
    pub held_from_ms: Option<u64>,
}

/// A control state that is set.
#[derive(Debug, Clone)]
pub struct ControlChange {
    /// The stage.
    pub stage: String,
    /// The state.
    pub state: ControlState,
    /// Why.
    pub reason: Option<String>,
    /// Who sets it.
    pub actor: Actor,
    /// The name of this in the audit log.
    pub action: &'static str,
}

/// Open deliveries of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageBacklog {
    /// Its name.
    pub stage: String,
    /// Unsettled deliveries, on all hosts.
    pub waiting: u64,
    /// Those of them that fall due later: retries and scheduled events.
    pub scheduled: u64,
    /// When the oldest of the others was written, milliseconds since 1970-01-01 UTC.
    pub oldest_ms: Option<u64>,
}

/// The last load of a stage's plugin: stage.
pub(super) const LAST_LOAD: &str =
    "SELECT digest, version FROM plugin_loads WHERE stage = $1 ORDER BY id DESC LIMIT 1";

impl PluginLoad {
    /// Its record in the audit log, given the row of the load before.
    pub(super) fn audited(&self, before: Option<&impl Columns>) -> Result<AuditEntry, StoreError> {
        let before = match before {
            Some(row) => json!({ "digest": row.text(0)?, "version": row.text(1)? }),
            None => Value::Null,
        };
        let after = json!({ "digest": self.digest, "version": self.version });
        let (actor, object) = (Actor::host(&self.host), format!("stage/{}", self.stage));
        Ok(AuditEntry::new(&actor, "plugin.load", object).change(before, after))
    }
}

/// The control of a stage: stage.
pub(super) const CONTROL: &str = "SELECT state, reason FROM stage_controls WHERE stage = $1";

impl ControlChange {
    /// Its record in the audit log, given the row of the control before.
    pub(super) fn audited(&self, before: Option<&impl Columns>) -> Result<AuditEntry, StoreError> {
        let before = match before {
            Some(row) => json!({ "state": row.text(0)?, "reason": row.maybe_text(1)? }),
            None => json!({ "state": "running", "reason": null }),
        };
        let state = control_name(self.state);
        let after = json!({ "state": state, "reason": self.reason });
        let entry = AuditEntry::new(&self.actor, self.action, format!("stage/{}", self.stage));
        Ok(entry.change(before, after).because(self.reason.clone()))
    }
}
