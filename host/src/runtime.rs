//! The WebAssembly runtime: compile once, link once, instantiate per message. No other module uses
//! `wasmtime`.
//!
//! What bounds a guest: memory and tables summed over its store
//! ([`StageLimits::memory_max_bytes`]), time by epochs (a busy guest yields every tick and ends at
//! its deadline) with a timeout over host calls, the stack by the engine, output, events, state and
//! log lines by count and bytes, external calls by the grants (`egress`). What bounds a file before
//! that: `limits` and `compiler`. Costs: a compilation per digest, cached on disk; an instance per
//! message.

use serde::{Deserialize, Serialize};

use crate::stage::state::StateLimits;

#[cfg(feature = "wasm")]
mod artifact;
#[cfg(feature = "wasm")]
mod call_span;
#[cfg(feature = "wasm")]
mod code_cache;
#[cfg(feature = "wasm")]
mod compiler;
#[cfg(feature = "wasm")]
mod describe;
pub mod egress;
#[cfg(feature = "wasm")]
mod engine;
#[cfg(feature = "wasm")]
mod epoch;
#[cfg(feature = "wasm")]
mod guest;
#[cfg(feature = "wasm")]
mod http;
#[cfg(feature = "wasm")]
mod limits;
#[cfg(feature = "wasm")]
mod load;
pub mod provenance;
#[cfg(feature = "wasm")]
mod wasm_stage;

#[cfg(all(feature = "wasm", any(test, fuzzing)))]
pub(crate) use artifact::as_component;
#[cfg(feature = "wasm")]
pub use artifact::producers;
#[cfg(feature = "wasm")]
pub use compiler::{CompileStep, CompilerProgram};
#[cfg(all(feature = "wasm", any(test, fuzzing)))]
pub(crate) use describe::check_description;
#[cfg(feature = "wasm")]
pub use engine::Runtime;
#[cfg(feature = "wasm")]
pub use epoch::EpochTicker;
#[cfg(feature = "wasm")]
pub use load::{CONTRACT, Linked, LoadError};
#[cfg(feature = "wasm")]
pub use wasm_stage::WasmStage;

/// The WebAssembly engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSettings {
    /// Most live instances in the pool.
    pub instances_max: u32,
    /// Time after which a busy guest yields, and the precision of deadlines.
    pub epoch_tick_ms: u64,
    /// Folder for compiled code; none: plugins are compiled at each start.
    pub cache_dir: Option<std::path::PathBuf>,
    /// Stack of a guest.
    pub stack_max_bytes: usize,
    /// Where instances come from.
    pub pool: Pool,
    /// Most memory that the compilation of one plugin file may allocate in a process of its own.
    pub compile_memory_max_bytes: u64,
    /// Most processor time that it may use, all its threads together.
    pub compile_time_max_ms: u64,
    /// Compiles plugin files in processes of their own; none: on threads of the host, which only the
    /// limits of a file bound. Not part of the configuration.
    #[cfg(feature = "wasm")]
    #[serde(skip)]
    pub compiler: Option<CompilerProgram>,
    /// Compile faster, to slower code: for development. Not part of the configuration.
    #[serde(skip)]
    pub quick: bool,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            instances_max: 64,
            epoch_tick_ms: 5,
            cache_dir: None,
            stack_max_bytes: 512 << 10,
            pool: Pool::Auto,
            compile_memory_max_bytes: 1 << 30,
            compile_time_max_ms: 120_000,
            #[cfg(feature = "wasm")]
            compiler: None,
            quick: false,
        }
    }
}

/// Where instances come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// Preallocated slots where the address space allows it, else on demand.
    Auto,
    /// Allocated for each instance.
    OnDemand,
}

/// Whether instances are reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceMode {
    /// A fresh instance for each message: no subject can see another's memory.
    #[default]
    Fresh,
    /// An instance handles many messages, one after another; its memory survives a call.
    Warm,
}

/// Whether a stage's instances are reused, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstancePolicy {
    /// One message each.
    Fresh,
    /// Many messages, one after another.
    Warm(WarmPolicy),
}

/// How long a warm instance is reused. One that trapped, timed out or exceeded a limit never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmPolicy {
    /// Calls after which it is dropped.
    pub calls_max: u32,
    /// It is dropped when its memories and tables have grown beyond this; its limit is
    /// `limits.memory_max_bytes`.
    pub memory_max_bytes: usize,
    /// It is dropped after it has been idle for this long.
    pub idle_ms: u64,
}

impl Default for WarmPolicy {
    fn default() -> Self {
        Self { calls_max: 1_000, memory_max_bytes: 48 << 20, idle_ms: 60_000 }
    }
}

/// Limits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageLimits {
    /// Time for one attempt.
    pub deadline_ms: u64,
    /// Linear memories and tables of one instance, summed.
    pub memory_max_bytes: usize,
    /// Payloads of all returned events, summed.
    pub output_max_bytes: usize,
    /// Returned events.
    pub events_max: usize,
    /// Log lines.
    pub log_lines_max: u32,
    /// Log text.
    pub log_bytes_max: usize,
    /// Longest state key.
    pub key_max_bytes: usize,
    /// Largest state value.
    pub value_max_bytes: usize,
    /// State written by one call, keys included.
    pub state_max_bytes: usize,
    /// Most keys that one `list-keys` returns.
    pub list_max: u32,
}

impl Default for StageLimits {
    fn default() -> Self {
        Self {
            deadline_ms: 1_000,
            memory_max_bytes: 64 << 20,
            output_max_bytes: 1 << 20,
            events_max: 100,
            log_lines_max: 100,
            log_bytes_max: 64 << 10,
            key_max_bytes: 512,
            value_max_bytes: 256 << 10,
            state_max_bytes: 1 << 20,
            list_max: 1_000,
        }
    }
}

impl StageLimits {
    /// The limits on state.
    pub fn state_limits(&self) -> StateLimits {
        StateLimits {
            key_max_bytes: self.key_max_bytes,
            value_max_bytes: self.value_max_bytes,
            call_max_bytes: self.state_max_bytes,
            list_max: self.list_max,
        }
    }
}
