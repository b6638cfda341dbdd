//! Long-lived tasks: one table of all of them (`task`), what keeps them running (`supervisor`), and
//! the periodic ones themselves.

pub mod task;
pub mod supervisor;
pub mod health;
pub mod faults;
pub mod binding_sync;
pub mod control_sync;
pub mod reconciler;
pub mod retention;
pub mod store_figures;
pub mod unrouted_events;
pub mod idle_instances;
