//! Decides about a cancel, without I/O, and about what a cancel overtakes.
//!
//! Guarantee carried here: an order is cancelled at most once, and only from a status that allows
//! it. What the database holds is verified under the order's lock when the plan is written.

use super::read_set::Loaded;
use super::write_set::WriteSet;
use crate::domain::event::ORDER_CANCELLED;
use crate::domain::order_status::StatusRules;
use crate::store::{Cancelled, NewCancel, Order, OutboxRow, Settlement, Verdict};

/// The wish to cancel an order.
pub(super) fn order<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    rules: &StatusRules,
    cancel: &'a NewCancel,
) -> (Cancelled, Vec<OutboxRow>) {
    let id = cancel.order_id.as_str();
    let Some((order, _)) = known.orders.get(id) else { return (Cancelled::NotFound, Vec::new()) };
    // What waits in the same group may have moved it.
    let present = plan.status_of(rules, id, &order.status);
    let order = Order { status: present.to_owned(), ..order.clone() };
    if rules.is_cancelled(&order.status) {
        return (Cancelled::Already(order), Vec::new());
    }
    let Some(next) = rules.next(&order.status, ORDER_CANCELLED) else {
        return (Cancelled::Refused(order), Vec::new());
    };
    known.held.insert(id);
    let order = Order { status: next.to_owned(), updated_at_ms: plan.now_ms(), ..order };
    let outbox = plan.cancel(id, &cancel.event).into_iter().collect();
    (Cancelled::Begun(order), outbox)
}

/// Whether the settlement takes part in what a cancel stops, so that its order must not be
/// cancelled when it is written.
pub(super) fn goes_forward(rules: &StatusRules, settlement: &Settlement) -> bool {
    let event_type = &settlement.envelope.event.event_type;
    !matches!(settlement.verdict, Verdict::Skipped)
        && !rules.runs_when_cancelled(&settlement.delivery.stage, event_type)
}
