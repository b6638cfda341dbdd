//! What a stage is to the host: the handler trait and its outcomes, the state it may use, and the
//! policies that an operator sets for it.

pub mod handler;
pub mod outcome;
pub mod sdk;
pub mod state;
pub mod settings;
pub mod recording;
pub mod policy;
pub mod circuit_breaker;
pub mod rate_limit;
pub mod rollout_guard;
