//! Decides cancellations, and which settlements a cancellation stops. No I/O.
//!
//! Guarantee carried here: an order is cancelled at most once, and only from a status that allows
//! it. The stored status is verified under the order's lock when the write set is written.

use super::read_set::Loaded;
use super::write_set::WriteSet;
use crate::domain::event::ORDER_CANCELLED;
use crate::domain::order_status::StatusRules;
use crate::store::{Cancelled, NewCancel, Order, OutboxRow, Settlement, Verdict};

/// A request to cancel an order.
pub(super) fn order<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    rules: &StatusRules,
    cancel: &'a NewCancel,
) -> (Cancelled, Vec<OutboxRow>) {
    let id = cancel.order_id.as_str();
    let Some((order, _)) = loaded.orders.get(id) else { return (Cancelled::NotFound, Vec::new()) };
    // Operations of the same group may have changed the status.
    let status = write_set.status_of(rules, id, &order.status);
    let order = Order { status: status.to_owned(), ..order.clone() };
    if rules.is_cancelled(&order.status) {
        return (Cancelled::Already(order), Vec::new());
    }
    let Some(next) = rules.next(&order.status, ORDER_CANCELLED) else {
        return (Cancelled::Refused(order), Vec::new());
    };
    loaded.cancelled.insert(id);
    let order = Order { status: next.to_owned(), updated_at_ms: write_set.now_ms(), ..order };
    let outbox = write_set.cancel(id, &cancel.event).into_iter().collect();
    (Cancelled::Begun(order), outbox)
}

/// Whether a cancellation stops this settlement: its order must not be cancelled when it is
/// written.
pub(super) fn is_stopped_by_cancel(rules: &StatusRules, settlement: &Settlement) -> bool {
    let event_type = &settlement.envelope.event.event_type;
    !matches!(settlement.verdict, Verdict::Skipped)
        && !rules.runs_when_cancelled(&settlement.delivery.stage, event_type)
}
