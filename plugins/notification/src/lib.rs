//! Notification: informs the customer about the result of an order. It writes to the log; a real
//! channel would need an HTTP grant.

use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde_json::{Value, json};

/// The notification stage.
pub struct Notification;

export!(Notification);

impl Stage for Notification {
    fn describe() -> Description {
        Description::new(
            "notification",
            env!("CARGO_PKG_VERSION"),
            "Informs the customer about the result of an order",
        )
        .consumes(&[
            "shipping.ready",
            "payment.declined",
            "inventory.rejected",
            "payment.refunded",
            "order.cancelled",
        ])
        .emits(&["notification.sent"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let data: Value = event.data()?;
        let order = &event.subject;
        let reason = data["reason"].as_str().unwrap_or("no reason given");
        let (kind, text) = match event.event_type.as_str() {
            "shipping.ready" => ("confirmation", format!("order {order} is on its way")),
            "payment.declined" => {
                ("decline", format!("the payment of order {order} was declined: {reason}"))
            }
            "inventory.rejected" => {
                ("rejection", format!("order {order} cannot be fulfilled: {reason}"))
            }
            "payment.refunded" => {
                ("receipt", format!("{} was refunded for order {order}", data["amount"]))
            }
            _ => ("cancellation", format!("order {order} was cancelled: {reason}")),
        };
        cx.info(&text);
        let sent = json!({ "order_id": order, "kind": kind, "text": text, "message_id": cx.idempotency_key() });
        Ok(vec![Emit::json("notification.sent", &sent)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    #[test]
    fn says_what_happened_and_logs_it() {
        let mut host = MemoryHost::default();
        let declined = Event::json("payment.declined", "7", &json!({ "reason": "too much" }));
        let events = host.handle::<Notification>(&declined).unwrap();
        assert_eq!(events[0].value()["kind"], "decline");
        assert!(host.log.borrow()[0].contains("too much"));
        let cancelled = Event::json("order.cancelled", "7", &json!({ "reason": null }));
        let events = host.handle::<Notification>(&cancelled).unwrap();
        assert_eq!(
            (events[0].value()["kind"].as_str(), events[0].value()["text"].as_str()),
            (Some("cancellation"), Some("order 7 was cancelled: no reason given"))
        );
    }
}
