//! Payment: authorizes the total of an order, declines it above the limit, and refunds a rejected or
//! cancelled order.
//!
//! State: `order/<id>/payment`. Every effect happens once in any order of arrival: a cancellation that
//! arrives before its order is recorded, and the order is then declined.
//!
//! Settings: `max_total`; `authorize_on` and `refund_on`, the event types, so that payment can run
//! before or after inventory.

use postrider_stage::{Context, Description, Emit, Event, EventTypes, Failure, Stage, export};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The payment stage.
pub struct Payment;

export!(Payment);

/// The limit if the operator sets none; it can be set at build time.
const MAX_TOTAL: Option<&str> = option_env!("PAYMENT_MAX_TOTAL");

/// Largest amount: above it, a `f64` no longer tells cents apart.
const AMOUNT_MAX: f64 = 10_000_000_000_000.0;

const AUTHORIZE_ON: EventTypes =
    EventTypes::new("authorize_on", &["order.created"], "Event types that request the payment");
const REFUND_ON: EventTypes = EventTypes::new(
    "refund_on",
    &["inventory.rejected", "order.cancelled"],
    "Event types that refund the payment, or prevent it",
);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Authorized,
    Declined,
    Refunded,
    /// The cancellation, or another reason for a refund, arrived before the order.
    CancelledBefore,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    status: Status,
    amount: f64,
}

impl Stage for Payment {
    fn describe() -> Description {
        Description::new(
            "payment",
            env!("CARGO_PKG_VERSION"),
            "Authorizes, declines and refunds payments",
        )
        .consumes_setting(&AUTHORIZE_ON)
        .consumes_setting(&REFUND_ON)
        .setting("max_total", json!({ "type": "string", "description": "Largest total" }))
        .emits(&["payment.authorized", "payment.declined", "payment.refunded"])
    }

    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let key = format!("order/{}/payment", event.subject);
        let record: Option<Record> = cx.get(&key)?;
        if cx.is_one_of(&AUTHORIZE_ON, event) {
            authorize(cx, &key, record, event.object()?)
        } else if cx.is_one_of(&REFUND_ON, event) {
            Ok(refund(cx, &key, record, &event.subject))
        } else {
            Err(Failure::unhandled(event))
        }
    }
}

fn authorize(
    cx: &mut Context<'_>,
    key: &str,
    record: Option<Record>,
    mut order: Value,
) -> Result<Vec<Emit>, Failure> {
    if order["force_fail"].as_bool() == Some(true) {
        return Err(Failure::retry(
            "simulated-failure",
            "the order requests a failure (`force_fail`)",
        ));
    }
    let amount = amount(&order)?;
    let reason = match record.map(|record| record.status) {
        Some(Status::CancelledBefore) => Some("the order was cancelled"),
        Some(_) => return Ok(vec![]),
        None if order["decline"].as_bool() == Some(true) => {
            Some("the order requests a decline (`decline`)")
        }
        None => max_total(cx)?.filter(|max| amount > *max).map(|_| "the total is above the limit"),
    };
    if let Some(reason) = reason {
        cx.set(key, &Record { status: Status::Declined, amount });
        return Ok(vec![Emit::json(
            "payment.declined",
            &json!({ "order_id": order["order_id"], "amount": amount, "reason": reason }),
        )]);
    }
    cx.set(key, &Record { status: Status::Authorized, amount });
    order["payment"] = json!({ "payment_id": cx.idempotency_key(), "amount": amount });
    Ok(vec![Emit::json("payment.authorized", &order)])
}

fn max_total(cx: &Context<'_>) -> Result<Option<f64>, Failure> {
    Ok(cx.setting("max_total")?.or_else(|| MAX_TOTAL?.parse().ok()))
}

/// The total of the order; without one, the sum of its items.
fn amount(order: &Value) -> Result<f64, Failure> {
    let items = order["items"].as_array().map_or(&[][..], Vec::as_slice);
    let price = |item: &Value| {
        Ok(number(item, "unit_price")?.unwrap_or(0.0) * number(item, "quantity")?.unwrap_or(1.0))
    };
    let amount = match number(order, "total")? {
        Some(total) => total,
        None => items.iter().map(price).sum::<Result<f64, Failure>>()?,
    };
    if (0.0..=AMOUNT_MAX).contains(&amount) {
        return Ok(amount);
    }
    let message = format!("the amount of the order is {amount}; it must be from 0 to {AMOUNT_MAX}");
    Err(Failure::reject("bad-data", &message))
}

fn number(object: &Value, field: &str) -> Result<Option<f64>, Failure> {
    let value = &object[field];
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_f64().map(Some);
    number.ok_or_else(|| {
        Failure::reject("bad-data", &format!("`{field}` is {value}, no number that can be paid"))
    })
}

fn refund(cx: &mut Context<'_>, key: &str, record: Option<Record>, order_id: &str) -> Vec<Emit> {
    match record {
        None => {
            cx.set(key, &Record { status: Status::CancelledBefore, amount: 0.0 });
            vec![]
        }
        Some(Record { status: Status::Authorized, amount }) => {
            cx.set(key, &Record { status: Status::Refunded, amount });
            vec![Emit::json("payment.refunded", &json!({ "order_id": order_id, "amount": amount }))]
        }
        Some(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    fn event(event_type: &str, data: Value) -> Event {
        Event::json(event_type, "7", &data)
    }

    fn types(events: Vec<Emit>) -> Vec<String> {
        events.into_iter().map(|event| event.event_type).collect()
    }

    #[test]
    fn authorizes_once_and_refunds_once() {
        let mut host = MemoryHost::default();
        let created =
            event("order.created", json!({ "order_id": "7", "total": 20.0, "gift": true }));
        let events = host.handle::<Payment>(&created).unwrap();
        assert_eq!(events[0].value()["gift"], true, "unknown fields are passed on");
        assert_eq!(events[0].value()["payment"]["amount"], 20.0);
        let rejected = event("inventory.rejected", json!({}));
        assert_eq!(types(host.handle::<Payment>(&rejected).unwrap()), ["payment.refunded"]);
        assert!(host.handle::<Payment>(&event("order.cancelled", json!({}))).unwrap().is_empty());
    }

    #[test]
    fn data_that_is_no_order_is_rejected() {
        let item = |price: Value, quantity: Value| json!({ "items": [{ "sku": "a", "unit_price": price, "quantity": quantity }] });
        for data in [
            json!([]),
            json!("order"),
            json!(7),
            json!({ "total": "20" }),
            json!({ "total": -1 }),
            json!({ "total": 1e300 }),
            json!({ "total": {} }),
            item(json!(1e308), json!(1_000_000)),
            item(json!("4"), json!(1)),
            item(json!(4), json!([])),
        ] {
            let mut host = MemoryHost::default();
            let failure =
                host.handle::<Payment>(&event("order.created", data.clone())).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.retryable), ("bad-data", false), "{data}");
            assert!(host.state.is_empty(), "{data}");
        }
    }

    #[test]
    fn the_order_is_passed_on_digit_by_digit() {
        let text = r#"{"total":1004.9999999999999,"ref":123456789012345678901234567890,"x":2.50}"#;
        let created = Event { data: text.into(), ..event("order.created", json!(null)) };
        let emitted = MemoryHost::default().handle::<Payment>(&created).unwrap().remove(0);
        let emitted = String::from_utf8(emitted.data).unwrap();
        for digits in ["1004.9999999999999", "123456789012345678901234567890", "2.50"] {
            assert!(emitted.contains(digits), "{emitted}");
        }
    }

    #[test]
    fn a_cancel_that_overtakes_its_order_declines_it() {
        let mut host = MemoryHost::default();
        assert!(host.handle::<Payment>(&event("order.cancelled", json!({}))).unwrap().is_empty());
        assert_eq!(
            types(host.handle::<Payment>(&event("order.created", json!({}))).unwrap()),
            ["payment.declined"]
        );
    }

    #[test]
    fn declines_above_the_limit_and_fails_when_asked_to() {
        let mut host = MemoryHost::default().with_setting("max_total", "10");
        let items = json!({ "items": [{ "sku": "a", "quantity": 3, "unit_price": 4.0 }] });
        assert_eq!(
            types(host.handle::<Payment>(&event("order.created", items)).unwrap()),
            ["payment.declined"]
        );
        let failure = MemoryHost::default()
            .handle::<Payment>(&event("order.created", json!({ "force_fail": true })))
            .unwrap_err();
        assert!(failure.retryable);
    }

    #[test]
    fn follows_inventory_when_the_settings_say_so() {
        let mut host = MemoryHost::default()
            .with_setting("authorize_on", "inventory.reserved")
            .with_setting("refund_on", "order.cancelled");
        let reserved = event(
            "inventory.reserved",
            json!({ "order_id": "7", "total": 20.0, "reservation": {} }),
        );
        let events = host.handle::<Payment>(&reserved).unwrap();
        assert_eq!(events[0].event_type, "payment.authorized");
        assert!(events[0].value()["reservation"].is_object(), "the reservation is passed on");
        for unhandled in ["order.created", "inventory.rejected"] {
            let failure = host.handle::<Payment>(&event(unhandled, json!({}))).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.retryable), ("unhandled-event", false));
        }
        assert_eq!(
            types(host.handle::<Payment>(&event("order.cancelled", json!({}))).unwrap()),
            ["payment.refunded"]
        );
    }
}
