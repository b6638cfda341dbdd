//! Where a stage keeps its state, when that is not with everything else.

use std::collections::BTreeMap;

/// A schema of Postgres that belongs to one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePlace {
    /// The schema of its table.
    pub schema: String,
    /// The role that owns the table, and whose permissions count; none: the host's own.
    pub role: Option<String>,
}

/// The places of stages, by name. Any other stage keeps its state with everything else.
pub type StatePlaces = BTreeMap<String, StatePlace>;
