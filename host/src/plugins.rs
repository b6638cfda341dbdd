//! Plugin files: the folder that is watched, and the supervisor that starts, swaps and stops what
//! they serve.

mod files;
pub mod supervisor;
mod waiting;
#[cfg(feature = "wasm")]
pub mod watcher;

pub use files::{FileStatus, PluginFiles, PluginPlaces, RolledBackFile};
pub use waiting::WaitingFor;
