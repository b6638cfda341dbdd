//! Cancelling an order, and why it may be too late. The store decides, under the order's lock.

use super::{App, Draft};
use crate::domain::event::{ORDER_CANCELLED, without_nul};
use crate::domain::order::is_id;
use crate::domain::trace_context::TraceContext;
use crate::store::{Cancelled, NewCancel, Order, StoreError};

impl App {
    /// Cancels an order: when it returns, nothing goes forward with it any more. Again, it changes
    /// nothing.
    pub async fn cancel(
        &self,
        id: &str,
        reason: Option<String>,
        trace: TraceContext,
    ) -> Result<Cancelled, StoreError> {
        if !is_id(id) {
            return Ok(Cancelled::NotFound);
        }
        let reason = reason.map(without_nul);
        let event = self.new_event(Draft {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: ORDER_CANCELLED,
            subject: id,
            data: serde_json::json!({ "order_id": id, "reason": reason }).to_string().into(),
            order_id: Some(id.to_owned()),
            trace,
            due_at_ms: None,
        });
        let (cancelled, rows) =
            self.services.store.cancel_order(NewCancel { order_id: id.to_owned(), event }).await?;
        self.services.relay.enqueue(rows);
        Ok(cancelled)
    }

    /// Whether everything is undone that was done for an order.
    pub fn is_cancelled(&self, order: &Order) -> bool {
        self.status.cancelling().is_some() && order.status == self.status.cancel.done
    }

    /// Why an order cannot be cancelled, for people.
    pub fn why_not_cancelled(&self, order: &Order) -> String {
        let Order { id, status, .. } = order;
        match self
            .status
            .transitions
            .get(ORDER_CANCELLED)
            .map(|transition| transition.from.as_deref())
        {
            None => {
                "the configured table of statuses knows no cancel (`orders.status.transitions`)"
                    .to_owned()
            }
            Some(Some(from)) => format!(
                "order `{id}` is `{status}`; it can be cancelled while it is {}",
                one_of(from)
            ),
            Some(None) => format!("order `{id}` is `{status}`, which is final"),
        }
    }
}

fn one_of(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, before @ [_, ..])) => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    }
}
