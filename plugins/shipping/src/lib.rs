//! Shipping: prepares the shipment of a reserved order, and recalls it if the order is cancelled before
//! the carrier has collected it.
//!
//! State: `order/<id>/shipment`. Every effect happens once in any order of arrival.
//!
//! Settings: `prepare_on`, `dispatch_on` and `recall_on`, the event types.

use postrider_stage::{Context, Description, Emit, Event, EventTypes, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The shipping stage.
pub struct Shipping;

export!(Shipping);

const PREPARE_ON: EventTypes =
    EventTypes::new("prepare_on", &["inventory.reserved"], "Event types that request the shipment");
const DISPATCH_ON: EventTypes = EventTypes::new(
    "dispatch_on",
    &["carrier.collected"],
    "Event types that mean that the carrier has the shipment",
);
const RECALL_ON: EventTypes = EventTypes::new(
    "recall_on",
    &["order.cancelled"],
    "Event types that recall the shipment, or prevent it",
);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Shipment {
    Ready,
    /// The carrier has collected it, so it can no longer be recalled.
    Dispatched,
    Recalled,
    /// The cancellation arrived before the reservation.
    CancelledBefore,
}

impl Stage for Shipping {
    fn describe() -> Description {
        Description::new(
            "shipping",
            env!("CARGO_PKG_VERSION"),
            "Prepares, dispatches and recalls shipments",
        )
        .consumes_setting(&PREPARE_ON)
        .consumes_setting(&DISPATCH_ON)
        .consumes_setting(&RECALL_ON)
        .emits(&["shipping.ready", "shipping.dispatched", "shipping.recalled"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let key = format!("order/{}/shipment", event.subject);
        let shipment: Option<Shipment> = cx.get(&key)?;
        if cx.is_one_of(&PREPARE_ON, event) {
            prepare(cx, &key, shipment, event)
        } else if cx.is_one_of(&DISPATCH_ON, event) {
            dispatch(cx, &key, shipment, &event.subject)
        } else if cx.is_one_of(&RECALL_ON, event) {
            Ok(recall(cx, &key, shipment, &event.subject))
        } else {
            Err(Failure::unhandled(event))
        }
    }
}

fn prepare(
    cx: &mut Context<'_>,
    key: &str,
    shipment: Option<Shipment>,
    event: &Event,
) -> Result<Vec<Emit>, Failure> {
    if shipment.is_some() {
        return Ok(vec![]);
    }
    let order = event.object()?;
    cx.set(key, &Shipment::Ready);
    let shipment_id = cx.idempotency_key();
    let ready = json!({ "order_id": order["order_id"], "user_id": order["user_id"], "items": order["items"], "shipment_id": shipment_id });
    Ok(vec![Emit::json("shipping.ready", &ready)])
}

fn dispatch(
    cx: &mut Context<'_>,
    key: &str,
    shipment: Option<Shipment>,
    order_id: &str,
) -> Result<Vec<Emit>, Failure> {
    match shipment {
        None => {
            Err(Failure::retry("not-ready", "the carrier collected a shipment that is not ready"))
        }
        Some(Shipment::Ready) => {
            cx.set(key, &Shipment::Dispatched);
            Ok(vec![Emit::json("shipping.dispatched", &json!({ "order_id": order_id }))])
        }
        Some(Shipment::Recalled | Shipment::CancelledBefore) => {
            cx.warn(&format!("the carrier collected order {order_id}, which is cancelled"));
            Ok(vec![])
        }
        Some(Shipment::Dispatched) => Ok(vec![]),
    }
}

fn recall(
    cx: &mut Context<'_>,
    key: &str,
    shipment: Option<Shipment>,
    order_id: &str,
) -> Vec<Emit> {
    match shipment {
        None => {
            cx.set(key, &Shipment::CancelledBefore);
            vec![]
        }
        Some(Shipment::Ready) => {
            cx.set(key, &Shipment::Recalled);
            vec![Emit::json("shipping.recalled", &json!({ "order_id": order_id }))]
        }
        Some(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    fn run(host: &mut MemoryHost, event_type: &str) -> Vec<String> {
        let event = Event::json(event_type, "7", &json!({ "order_id": "7", "items": [] }));
        host.handle::<Shipping>(&event).unwrap().into_iter().map(|event| event.event_type).collect()
    }

    #[test]
    fn ships_and_recalls_once() {
        let mut host = MemoryHost::default();
        assert_eq!(run(&mut host, "inventory.reserved"), ["shipping.ready"]);
        assert!(run(&mut host, "inventory.reserved").is_empty());
        assert_eq!(run(&mut host, "order.cancelled"), ["shipping.recalled"]);
        assert!(run(&mut host, "order.cancelled").is_empty());
    }

    #[test]
    fn what_the_carrier_collected_is_dispatched_once_and_not_recalled() {
        let mut host = MemoryHost::default();
        let early = Event::json("carrier.collected", "7", &json!({}));
        assert!(
            host.handle::<Shipping>(&early).unwrap_err().retryable,
            "the reservation may still arrive"
        );
        assert_eq!(run(&mut host, "inventory.reserved"), ["shipping.ready"]);
        assert_eq!(run(&mut host, "carrier.collected"), ["shipping.dispatched"]);
        assert!(run(&mut host, "carrier.collected").is_empty());
        assert!(run(&mut host, "order.cancelled").is_empty());
    }

    #[test]
    fn what_was_recalled_is_not_dispatched() {
        let mut host = MemoryHost::default();
        run(&mut host, "inventory.reserved");
        assert_eq!(run(&mut host, "order.cancelled"), ["shipping.recalled"]);
        assert!(run(&mut host, "carrier.collected").is_empty());
    }

    #[test]
    fn what_was_cancelled_before_is_not_shipped() {
        let mut host = MemoryHost::default();
        assert!(run(&mut host, "order.cancelled").is_empty());
        assert!(run(&mut host, "inventory.reserved").is_empty());
    }

    #[test]
    fn ships_on_the_event_types_that_the_settings_name() {
        let mut host = MemoryHost::default().with_setting("prepare_on", "payment.authorized");
        assert_eq!(run(&mut host, "payment.authorized"), ["shipping.ready"]);
        let reserved = Event::json("inventory.reserved", "8", &json!({}));
        let failure = host.handle::<Shipping>(&reserved).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retryable), ("unhandled-event", false));
    }
}
