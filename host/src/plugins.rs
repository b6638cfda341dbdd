//! Plugin files: the folder that is watched, and the supervisor that starts, swaps and stops what
//! they serve; and plugins that are only compared with what serves.

#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only the API compares"))]
mod candidates;
mod files;
pub mod supervisor;
mod waiting;
#[cfg(feature = "wasm")]
pub mod watcher;

pub use candidates::Candidates;
#[cfg(feature = "http")]
pub use candidates::{Candidate, CandidateError};
#[cfg(any(feature = "http", feature = "wasm"))]
pub use files::FILE_MAX_BYTES;
pub use files::{FileStatus, PluginFiles, PluginPlaces, RolledBackFile};
pub use waiting::WaitingFor;
