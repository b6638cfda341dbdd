//! Notification: informs the customer about the result of an order. It writes to the log; a real
//! channel would need an HTTP grant.
//!
//! Settings: one for each kind of message (`confirm_on`, `decline_on`, …), the event types.

use postrider_stage::{Context, Description, Emit, Event, EventTypes, Failure, Stage, export};
use serde::Serialize;
use serde_json::{Value, json};

/// The notification stage.
pub struct Notification;

export!(Notification);

/// What a message is about.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Confirmation,
    Decline,
    Rejection,
    Receipt,
    Cancellation,
}

const KINDS: [(Kind, EventTypes); 5] = [
    (
        Kind::Confirmation,
        EventTypes::new("confirm_on", &["shipping.ready"], "Event types that send a confirmation"),
    ),
    (
        Kind::Decline,
        EventTypes::new("decline_on", &["payment.declined"], "Event types that report a decline"),
    ),
    (
        Kind::Rejection,
        EventTypes::new(
            "reject_on",
            &["inventory.rejected"],
            "Event types that report a rejection",
        ),
    ),
    (
        Kind::Receipt,
        EventTypes::new("receipt_on", &["payment.refunded"], "Event types that report a refund"),
    ),
    (
        Kind::Cancellation,
        EventTypes::new(
            "cancel_on",
            &["order.cancelled"],
            "Event types that report a cancellation",
        ),
    ),
];

impl Stage for Notification {
    fn describe() -> Description {
        let description = Description::new(
            "notification",
            env!("CARGO_PKG_VERSION"),
            "Informs the customer about the result of an order",
        );
        KINDS
            .iter()
            .fold(description, |description, (_, types)| description.consumes_setting(types))
            .emits(&["notification.sent"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let data: Value = event.data()?;
        let order = &event.subject;
        let reason = data["reason"].as_str().unwrap_or("no reason given");
        let found = KINDS.iter().find(|(_, types)| cx.is_one_of(types, event));
        let Some((kind, _)) = found else { return Err(Failure::unhandled(event)) };
        let text = match kind {
            Kind::Confirmation => format!("order {order} is on its way"),
            Kind::Decline => format!("the payment of order {order} was declined: {reason}"),
            Kind::Rejection => format!("order {order} cannot be fulfilled: {reason}"),
            Kind::Receipt => format!("{} was refunded for order {order}", data["amount"]),
            Kind::Cancellation => format!("order {order} was cancelled: {reason}"),
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

    #[test]
    fn refuses_event_types_that_no_setting_names() {
        let mut host = MemoryHost::default().with_setting("confirm_on", "shipping.dispatched");
        let event = |event_type| Event::json(event_type, "7", &json!({}));
        assert!(host.handle::<Notification>(&event("shipping.dispatched")).is_ok());
        let failure = host.handle::<Notification>(&event("shipping.ready")).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retryable), ("unhandled-event", false));
    }
}
