//! Inventory: reserves either all items of an order or none, and releases the reservation of a
//! cancelled order. Never oversells.
//!
//! State: `stock/<sku>`, which product reads return, and `order/<id>/reservation`.
//!
//! Settings: `default_stock`; `reserve_on`, `release_on` and `restock_on`, the event types, so that
//! inventory can run before or after payment.

use std::collections::BTreeMap;

use postrider_stage::{Context, Description, Emit, Event, EventTypes, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The inventory stage.
pub struct Inventory;

export!(Inventory);

const RESERVE_ON: EventTypes = EventTypes::new(
    "reserve_on",
    &["payment.authorized"],
    "Event types that request the reservation",
);
const RELEASE_ON: EventTypes = EventTypes::new(
    "release_on",
    &["order.cancelled"],
    "Event types that release the reservation, or prevent it",
);
const RESTOCK_ON: EventTypes =
    EventTypes::new("restock_on", &["product.stocked"], "Event types that add to the stock");

#[derive(Debug, Serialize, Deserialize)]
struct Stock {
    sku: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    available: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
enum Reservation {
    Held {
        items: BTreeMap<String, u64>,
    },
    Rejected,
    Released,
    /// The cancellation, or another reason for a release, arrived before the reservation.
    CancelledBefore,
}

#[derive(Debug, Deserialize)]
struct Stocked {
    sku: String,
    name: Option<String>,
    quantity: u64,
}

impl Stage for Inventory {
    fn describe() -> Description {
        Description::new("inventory", env!("CARGO_PKG_VERSION"), "Reserves and releases stock")
            .consumes_setting(&RESERVE_ON)
            .consumes_setting(&RELEASE_ON)
            .consumes_setting(&RESTOCK_ON)
            .setting(
                "default_stock",
                json!({ "type": "string", "description": "Stock of a product never stocked" }),
            )
            .emits(&["inventory.reserved", "inventory.rejected", "inventory.released"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        if cx.is_one_of(&RESTOCK_ON, event) {
            return restock(cx, event.data()?);
        }
        let key = format!("order/{}/reservation", event.subject);
        let reservation: Option<Reservation> = cx.get(&key)?;
        if cx.is_one_of(&RESERVE_ON, event) {
            reserve(cx, &key, reservation, event.object()?)
        } else if cx.is_one_of(&RELEASE_ON, event) {
            release(cx, &key, reservation, &event.subject)
        } else {
            Err(Failure::unhandled(event))
        }
    }
}

fn restock(cx: &mut Context<'_>, stocked: Stocked) -> Result<Vec<Emit>, Failure> {
    let key = format!("stock/{}", stocked.sku);
    let before: Option<Stock> = cx.get(&key)?;
    let (name, available) = before.map_or((None, 0), |stock| (stock.name, stock.available));
    let stock = Stock {
        sku: stocked.sku,
        name: stocked.name.or(name),
        available: available.saturating_add(stocked.quantity),
    };
    cx.set(&key, &stock);
    Ok(vec![])
}

/// The stock of a product, or the configured default if it was never stocked.
fn stock(cx: &Context<'_>, sku: &str) -> Result<Stock, Failure> {
    match cx.get(&format!("stock/{sku}"))? {
        Some(stock) => Ok(stock),
        None => Ok(Stock {
            sku: sku.to_owned(),
            name: None,
            available: cx.setting("default_stock")?.unwrap_or(0),
        }),
    }
}

fn reserve(
    cx: &mut Context<'_>,
    key: &str,
    reservation: Option<Reservation>,
    mut order: Value,
) -> Result<Vec<Emit>, Failure> {
    match reservation {
        None => {}
        Some(Reservation::CancelledBefore) => {
            return Ok(reject(cx, key, &order, "the order was cancelled"));
        }
        Some(_) => return Ok(vec![]),
    }
    let wanted = wanted(&order)?;
    let mut left = Vec::with_capacity(wanted.len());
    for (sku, quantity) in &wanted {
        let mut stock = stock(cx, sku)?;
        match stock.available.checked_sub(*quantity) {
            Some(rest) => stock.available = rest,
            None => {
                return Ok(reject(
                    cx,
                    key,
                    &order,
                    &format!(
                        "insufficient stock of `{sku}`: {} available, {quantity} requested",
                        stock.available
                    ),
                ));
            }
        }
        left.push(stock);
    }
    for stock in left {
        cx.set(&format!("stock/{}", stock.sku), &stock);
    }
    cx.set(key, &Reservation::Held { items: wanted });
    order["reservation"] = json!({ "reservation_id": cx.idempotency_key() });
    Ok(vec![Emit::json("inventory.reserved", &order)])
}

/// Quantities by SKU; lines with the same SKU are summed.
fn wanted(order: &Value) -> Result<BTreeMap<String, u64>, Failure> {
    let mut wanted = BTreeMap::new();
    let items = order["items"]
        .as_array()
        .ok_or_else(|| Failure::reject("bad-data", "the order has no `items`"))?;
    for item in items {
        let sku = item["sku"]
            .as_str()
            .ok_or_else(|| Failure::reject("bad-data", "an item has no `sku`"))?;
        let quantity = match &item["quantity"] {
            Value::Null => 1,
            quantity => quantity.as_u64().ok_or_else(|| {
                let message = format!("the quantity of `{sku}` is {quantity}, no whole number");
                Failure::reject("bad-data", &message)
            })?,
        };
        let total: &mut u64 = wanted.entry(sku.to_owned()).or_default();
        *total = total.saturating_add(quantity);
    }
    Ok(wanted)
}

fn reject(cx: &mut Context<'_>, key: &str, order: &Value, reason: &str) -> Vec<Emit> {
    cx.set(key, &Reservation::Rejected);
    vec![Emit::json(
        "inventory.rejected",
        &json!({ "order_id": order["order_id"], "reason": reason }),
    )]
}

fn release(
    cx: &mut Context<'_>,
    key: &str,
    reservation: Option<Reservation>,
    order_id: &str,
) -> Result<Vec<Emit>, Failure> {
    match reservation {
        None => {
            cx.set(key, &Reservation::CancelledBefore);
            Ok(vec![])
        }
        Some(Reservation::Held { items }) => {
            for (sku, quantity) in &items {
                let mut stock = stock(cx, sku)?;
                stock.available = stock.available.saturating_add(*quantity);
                cx.set(&format!("stock/{sku}"), &stock);
            }
            cx.set(key, &Reservation::Released);
            Ok(vec![Emit::json(
                "inventory.released",
                &json!({ "order_id": order_id, "items": items }),
            )])
        }
        Some(_) => Ok(vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    fn stocked(host: &mut MemoryHost, quantity: u64) {
        host.handle::<Inventory>(&Event::json(
            "product.stocked",
            "Lamp",
            &json!({ "sku": "Lamp", "quantity": quantity }),
        ))
        .unwrap();
    }

    fn authorized(order_id: &str, quantities: &[u64]) -> Event {
        let items: Vec<Value> = quantities
            .iter()
            .map(|quantity| json!({ "sku": "Lamp", "quantity": quantity }))
            .collect();
        Event::json(
            "payment.authorized",
            order_id,
            &json!({ "order_id": order_id, "items": items }),
        )
    }

    fn run(host: &mut MemoryHost, event: &Event) -> Vec<String> {
        host.handle::<Inventory>(event).unwrap().into_iter().map(|event| event.event_type).collect()
    }

    fn available(host: &MemoryHost) -> u64 {
        serde_json::from_slice::<Stock>(&host.state["stock/Lamp"]).unwrap().available
    }

    #[test]
    fn never_oversells_and_sums_the_lines_of_one_product() {
        let mut host = MemoryHost::default();
        stocked(&mut host, 3);
        assert_eq!(run(&mut host, &authorized("1", &[2])), ["inventory.reserved"]);
        assert_eq!(run(&mut host, &authorized("2", &[1, 1])), ["inventory.rejected"]);
        assert_eq!(run(&mut host, &authorized("3", &[1])), ["inventory.reserved"]);
        assert_eq!(available(&host), 0);
    }

    #[test]
    fn data_that_is_no_order_is_rejected() {
        let item = |quantity: Value| json!({ "items": [{ "sku": "Lamp", "quantity": quantity }] });
        for data in [
            json!([]),
            json!("order"),
            json!({}),
            json!({ "items": {} }),
            json!({ "items": [7] }),
            item(json!(2.5)),
            item(json!(-1)),
            item(json!("2")),
            item(json!([])),
        ] {
            let mut host = MemoryHost::default().with_setting("default_stock", "5");
            let event = Event::json("payment.authorized", "1", &data);
            let failure = host.handle::<Inventory>(&event).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.retryable), ("bad-data", false), "{data}");
            assert!(host.state.is_empty(), "{data}");
        }
    }

    #[test]
    fn a_cancel_gives_back_once_and_one_that_came_first_rejects() {
        let mut host = MemoryHost::default();
        stocked(&mut host, 3);
        run(&mut host, &authorized("1", &[2]));
        let cancelled = |id: &str| Event::json("order.cancelled", id, &json!({}));
        assert_eq!(run(&mut host, &cancelled("1")), ["inventory.released"]);
        assert!(run(&mut host, &cancelled("1")).is_empty());
        assert_eq!(available(&host), 3);
        assert!(run(&mut host, &cancelled("2")).is_empty());
        assert_eq!(run(&mut host, &authorized("2", &[1])), ["inventory.rejected"]);
        assert_eq!(available(&host), 3);
    }

    #[test]
    fn an_unstocked_product_has_the_default_and_a_stocked_one_does_not() {
        let mut host = MemoryHost::default().with_setting("default_stock", "5");
        assert_eq!(run(&mut host, &authorized("1", &[5])), ["inventory.reserved"]);
        let mut host = MemoryHost::default().with_setting("default_stock", "5");
        stocked(&mut host, 2);
        assert_eq!(available(&host), 2);
    }

    #[test]
    fn precedes_payment_when_the_settings_say_so() {
        let mut host = MemoryHost::default()
            .with_setting("reserve_on", "order.created")
            .with_setting("release_on", "payment.declined, order.cancelled");
        stocked(&mut host, 3);
        let created = Event { event_type: "order.created".into(), ..authorized("1", &[2]) };
        assert_eq!(run(&mut host, &created), ["inventory.reserved"]);
        let declined = Event::json("payment.declined", "1", &json!({}));
        assert_eq!(run(&mut host, &declined), ["inventory.released"]);
        assert!(run(&mut host, &declined).is_empty());
        assert_eq!(available(&host), 3);
        let failure = host.handle::<Inventory>(&authorized("2", &[1])).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retryable), ("unhandled-event", false));
    }
}
