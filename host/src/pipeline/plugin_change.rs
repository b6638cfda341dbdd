//! Changes of plugins: reported by the watcher of the folder and by the workers, handled by the
//! supervisor.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "wasm")]
use crate::runtime::Linked;

/// A plugin that is ready to serve.
#[cfg(feature = "wasm")]
pub struct LoadedPlugin {
    /// File name.
    pub file: String,
    /// Instantiable; knows its digest and its description.
    pub linked: Linked,
    /// Reading, compiling, linking and describing.
    pub load_time: Duration,
}

/// The content of a file that was refused.
pub struct RefusedContent {
    /// SHA-256 in hex; none: the file is too large to be read.
    pub digest: Option<Arc<str>>,
}

/// A change that the supervisor handles.
pub enum PluginChange {
    /// A new or changed file is ready to serve.
    #[cfg(feature = "wasm")]
    Loaded(Box<LoadedPlugin>),
    /// A new or changed file cannot serve.
    Failed {
        /// File name.
        file: String,
        /// Why.
        error: String,
        /// What has to change before it can.
        waiting_for: String,
        /// What was refused; none: the file could not be read.
        content: Option<RefusedContent>,
    },
    /// A file was removed.
    Removed {
        /// File name.
        file: String,
    },
    /// Every file that was in the folder at the start has been reported.
    ScanComplete,
    /// The version of a stage trapped too often, and the previous one runs again.
    RolledBack {
        /// Name of the stage.
        stage: Arc<str>,
        /// Digest of the version that trapped.
        digest: String,
        /// The reason, in words.
        why: String,
    },
}

impl PluginChange {
    /// The plugin file that changed.
    pub fn file(&self) -> Option<&str> {
        match self {
            #[cfg(feature = "wasm")]
            Self::Loaded(plugin) => Some(&plugin.file),
            Self::Failed { file, .. } | Self::Removed { file } => Some(file),
            Self::ScanComplete | Self::RolledBack { .. } => None,
        }
    }
}
