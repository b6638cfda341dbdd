//! `/dead-letters`: list, groups, show, replay (unchanged or edited), discard; many at once as a
//! job.

mod discard;
mod filter;
mod jobs;
mod list;
mod many;
mod replay;
mod show;
mod view;

pub(super) use self::discard::*;
pub(super) use self::jobs::*;
pub(super) use self::list::*;
pub(super) use self::many::*;
pub(super) use self::replay::*;
pub(super) use self::show::*;

use super::Shared;
use super::problem::{Answer, Kind, Problem};
use crate::domain::access::{Permission, Requester, Target};
use crate::store::{DeadLetterAction, DeadLetterStatus};

fn missing(id: i64) -> Problem {
    Problem::not_found(format!("no dead letter {id}"))
}

/// Refuses a requester who may not operate the stage of a dead letter.
async fn require_operator(app: &Shared, requester: &Requester, id: i64) -> Answer<()> {
    if requester.may(Permission::Operate, Target::Everything) {
        return Ok(());
    }
    let dead_letter = app.services().store.dead_letter(id).await?.ok_or_else(|| missing(id))?;
    requester.require(Permission::Operate, Target::Stage(&dead_letter.stage))
}

/// Refuses an action that changed nothing.
fn require_done(id: i64, action: &DeadLetterAction) -> Answer<()> {
    let status = match action {
        DeadLetterAction::Done(_) => return Ok(()),
        DeadLetterAction::NotFound => return Err(missing(id)),
        DeadLetterAction::AlreadySettled(status) => status,
    };
    let settled = match status {
        DeadLetterStatus::Discarded => "already discarded",
        DeadLetterStatus::Replayed => "already replayed",
        DeadLetterStatus::Open => "open",
    };
    let detail = format!("dead letter {id} is {settled}; nothing was changed");
    Err(Problem::new(Kind::DEAD_LETTER_SETTLED, detail))
}
