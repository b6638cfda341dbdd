//! A stage as the host sees it: the handler trait and its outcomes, the state that a call may use,
//! and the policies that an operator sets.
//!
//! Inside the room the subject is: `outcome` and `state_writes`; `recording`; `state`; `settings`;
//! `handler`. No file imports one that follows it.

pub mod handler;
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
