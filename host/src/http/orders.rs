//! `/orders`: submit, list, show, cancel, and the events of one order.

mod cancel;
mod create;
mod events;
mod list;
mod show;
mod view;

pub(super) use self::cancel::*;
pub(super) use self::create::*;
pub(super) use self::events::*;
pub(super) use self::list::*;
pub(super) use self::show::*;
