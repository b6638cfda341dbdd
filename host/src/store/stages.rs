//! What a store keeps about stages: plugin loads, and the state that operators set.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Open deliveries of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageBacklog {
    /// Its name.
    pub stage: String,
    /// Unsettled deliveries, on all hosts.
    pub waiting: u64,
    /// Those of them that fall due later: retries and scheduled events.
    pub scheduled: u64,
}
