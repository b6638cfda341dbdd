//! `/stages`: list, pause, drain, resume, delete; circuit breakers; and what a stage recorded.

mod breaker;
mod control;
mod delete;
mod list;
mod recordings;

pub(super) use self::breaker::*;
pub(super) use self::control::*;
pub(super) use self::delete::*;
pub(super) use self::list::*;
pub(super) use self::recordings::*;
