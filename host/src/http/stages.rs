//! `/stages`: list, pause, drain, resume, delete; and what a stage recorded.

mod control;
mod delete;
mod list;
mod recordings;

pub(super) use self::control::*;
pub(super) use self::delete::*;
pub(super) use self::list::*;
pub(super) use self::recordings::*;
