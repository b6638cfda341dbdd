//! `/events`: the event log as a page, live, and as JSON lines; and events of other programs.

mod export;
mod import;
mod ingest;
mod list;
mod receipt;
mod send;
mod show;
mod stream;
mod view;

pub(super) use self::export::*;
pub(super) use self::import::*;
pub(super) use self::ingest::*;
pub(super) use self::list::*;
pub(super) use self::send::*;
pub(super) use self::show::*;
pub(super) use self::stream::live;
pub(super) use self::view::EventView;
