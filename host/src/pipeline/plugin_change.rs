//! What happened to a plugin: reported by the folder and by the workers, handled by the supervisor.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::Linked;

/// A plugin that is ready to serve.
pub struct LoadedPlugin {
    /// File name.
    pub file: String,
    /// Instantiable; knows its digest and its description.
    pub linked: Linked,
    /// Reading, compiling, linking and describing.
    pub load_time: Duration,
}

/// What happened in the folder.
pub enum PluginChange {
    /// A new or changed file is ready to serve.
    Loaded(Box<LoadedPlugin>),
    /// A new or changed file cannot serve.
    Failed {
        /// File name.
        file: String,
        /// Why.
        error: String,
    },
    /// A file is gone.
    Removed {
        /// File name.
        file: String,
    },
    /// Every file that was there at the start has been reported.
    ScanComplete,
    /// The version that a stage ran trapped too often, and the one before runs again.
    RolledBack {
        /// The stage.
        stage: Arc<str>,
        /// The version that trapped.
        digest: String,
        /// What trapped, in numbers.
        why: String,
    },
}
