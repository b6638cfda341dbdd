//! `/stages`: list, pause, drain, resume, delete; circuit breakers; log levels; what a stage recorded, and
//! what another build would decide.

mod breaker;
mod compare;
mod control;
mod delete;
mod list;
mod log_level;
mod recordings;

pub(super) use self::breaker::*;
pub(super) use self::compare::*;
pub(super) use self::control::*;
pub(super) use self::delete::*;
pub(super) use self::list::*;
pub(super) use self::log_level::*;
pub(super) use self::recordings::*;
