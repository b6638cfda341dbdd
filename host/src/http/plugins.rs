//! `/plugins` and `/topology`: what runs, what ran before, rollback, and how stages are connected.

mod history;
mod list;
mod rollback;
mod topology;

pub(super) use self::history::*;
pub(super) use self::list::*;
pub(super) use self::rollback::*;
pub(super) use self::topology::*;
