//! Periodic work beside the flow, one task each.

pub mod binding_sync;
pub mod control_sync;
pub mod reconciler;
pub mod retention;
