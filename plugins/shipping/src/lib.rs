//! Shipping: prepares the shipment of a reserved order, and recalls it if the order is cancelled before
//! the carrier has collected it.
//!
//! State: `order/<id>/shipment`. Every effect happens once in any order of arrival.

use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The shipping stage.
pub struct Shipping;

export!(Shipping);

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
        .consumes(&["inventory.reserved", "carrier.collected", "order.cancelled"])
        .emits(&["shipping.ready", "shipping.dispatched", "shipping.recalled"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let key = format!("order/{}/shipment", event.subject);
        let shipment: Option<Shipment> = cx.get(&key)?;
        match (event.event_type.as_str(), shipment) {
            ("inventory.reserved", None) => {
                let order: Value = event.data()?;
                cx.set(&key, &Shipment::Ready);
                let shipment_id = cx.idempotency_key();
                let ready = json!({ "order_id": order["order_id"], "user_id": order["user_id"], "items": order["items"], "shipment_id": shipment_id });
                Ok(vec![Emit::json("shipping.ready", &ready)])
            }
            ("carrier.collected", None) => Err(Failure::retry(
                "not-ready",
                "the carrier collected a shipment that is not ready",
            )),
            ("carrier.collected", Some(Shipment::Ready)) => {
                cx.set(&key, &Shipment::Dispatched);
                Ok(vec![Emit::json("shipping.dispatched", &json!({ "order_id": event.subject }))])
            }
            ("carrier.collected", Some(Shipment::Recalled | Shipment::CancelledBefore)) => {
                cx.warn(&format!(
                    "the carrier collected order {}, which is cancelled",
                    event.subject
                ));
                Ok(vec![])
            }
            ("order.cancelled", None) => {
                cx.set(&key, &Shipment::CancelledBefore);
                Ok(vec![])
            }
            ("order.cancelled", Some(Shipment::Ready)) => {
                cx.set(&key, &Shipment::Recalled);
                Ok(vec![Emit::json("shipping.recalled", &json!({ "order_id": event.subject }))])
            }
            _ => Ok(vec![]),
        }
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
}
