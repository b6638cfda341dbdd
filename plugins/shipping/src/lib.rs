//! Shipping: makes a reserved order ready, and recalls it when the order is cancelled.
//!
//! State: `order/<id>/shipment`.

use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Sends parcels.
pub struct Shipping;

export!(Shipping);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Shipment {
    Ready,
    Recalled,
    /// The cancel came before the reservation.
    CancelledBefore,
}

impl Stage for Shipping {
    fn describe() -> Description {
        Description::new("shipping", env!("CARGO_PKG_VERSION"), "Prepares and recalls shipments")
            .consumes(&["inventory.reserved", "order.cancelled"])
            .emits(&["shipping.ready", "shipping.recalled"])
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
    fn what_was_cancelled_before_is_not_shipped() {
        let mut host = MemoryHost::default();
        assert!(run(&mut host, "order.cancelled").is_empty());
        assert!(run(&mut host, "inventory.reserved").is_empty());
    }
}
