//! A stage as the host sees it: the handler trait and its outcomes, the state that a call may use,
//! and the policies that an operator sets.
//!
//! Inside the room the subject is: `outcome` and `state_writes`; `log_level`; `delivery_log`;
//! `recording`; `state`; `settings`; `handler`; `guest_log`. No file imports one that follows it.

pub mod log_level;
pub mod delivery_log;
pub mod handler;
pub(crate) mod guest_log;
pub mod outcome;
pub mod sdk;
pub mod state;
pub mod state_writes;
pub mod settings;
pub mod event_settings;
pub mod recording;
pub mod policy;
pub mod circuit_breaker;
pub mod rate_limit;
pub mod rollout_guard;
