//! What a group of operations comes to: decided here once, for every database.
//!
//! A store merges the operations that wait at the same time into one transaction. The database's
//! own module asks what the group must know ([`ReadSet`] → [`Loaded`]), [`decide`] turns each
//! operation into rows ([`WriteSet`]) and an answer, and the database's module writes the rows, a
//! constant number of statements whatever the size of the group. Nothing in here does I/O.

mod cancel;
mod read_set;
mod write_set;
mod rows;
mod apply;

pub(super) use self::read_set::{Loaded, Present, ReadSet, Seen, pick};
pub(super) use self::rows::{
    AttemptRow, DeadRow, DeliveryRow, EventRow, OpenedRow, OrderRow, OutboxInsert, RecordingRow,
    StateRow,
};
pub(super) use self::write_set::{Numbers, Standing, Times, WriteSet};
use super::{Accepted, Batch, Cancelled, Commit, NewCancel, NewEvent, NewOrder, OutboxRow};
use crate::domain::order_status::StatusRules;

/// The operations that come often.
#[derive(Debug)]
pub(super) enum Op {
    Order(Box<NewOrder>),
    Event(Box<NewEvent>),
    Cancel(Box<NewCancel>),
    Commit(Batch),
    Sent(Vec<i64>),
}

/// What came of one.
#[derive(Debug)]
pub(super) enum Reply {
    Order(Accepted, Vec<OutboxRow>),
    Event(bool, Vec<OutboxRow>),
    Cancel(Cancelled, Vec<OutboxRow>),
    Commit(Commit),
    Sent,
}

/// Decides one operation: what it writes goes into the plan, and what it changes into `known`, so
/// that the second of two operations on one row sees the first. They wait at the same time, so any
/// order is a fair one.
pub(super) fn decide<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    rules: &StatusRules,
    op: &'a Op,
) -> Reply {
    match op {
        Op::Order(order) => {
            let (accepted, rows) = apply::order(known, plan, order);
            Reply::Order(accepted, rows)
        }
        Op::Event(event) => {
            let (new, rows) = apply::event(known, plan, event);
            Reply::Event(new, rows)
        }
        Op::Cancel(cancel) => {
            let (cancelled, rows) = cancel::order(known, plan, rules, cancel);
            Reply::Cancel(cancelled, rows)
        }
        Op::Commit(batch) => Reply::Commit(apply::batch(known, plan, rules, batch)),
        Op::Sent(ids) => {
            plan.sent.extend(ids);
            Reply::Sent
        }
    }
}
