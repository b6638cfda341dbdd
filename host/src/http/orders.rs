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
use crate::domain::subject::{SubjectKey, is_id};

/// The kind of these routes.
const KIND: &str = "order";

/// The key of an order; none when no order can have this id.
fn key(id: &str) -> Option<SubjectKey> {
    is_id(id).then(|| SubjectKey::new(KIND, id))
}
