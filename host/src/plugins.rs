//! Plugin files: the folder that is watched, and the supervisor that starts, swaps and stops what
//! they serve.

pub mod supervisor;
#[cfg(feature = "wasm")]
pub mod watcher;
