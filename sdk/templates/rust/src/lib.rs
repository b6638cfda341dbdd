//! {{name}}: checks an order's total against a limit and counts the orders of its customer.
//!
//! State: `customer/<user id>`, how many orders the customer has placed. Setting: `max_total`.

use postrider_stage::{Context, Description, Emit, Event, Failure, Stage, export};
use serde_json::{Value, json};

pub struct Check;

export!(Check);

impl Stage for Check {
    fn describe() -> Description {
        Description::new("{{name}}", env!("CARGO_PKG_VERSION"), "Checks the total of an order")
            .consumes(&["order.created"])
            .emits(&["{{name}}.checked"])
    }

    /// Decides about one event. What it returns is sent and what it wrote is kept, both or neither.
    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let order: Value = event.data()?;
        if !order.is_object() {
            return Err(Failure::reject("bad-order", "the payload of order.created is no JSON object"));
        }
        if order["force_fail"] == true {
            return Err(Failure::retry("forced", "the order asks for a failure (`force_fail`)"));
        }
        let customer = order["user_id"].as_str().map_or_else(|| order["user_id"].to_string(), str::to_owned);
        let key = format!("customer/{customer}");
        let orders = cx.get::<u64>(&key)?.unwrap_or(0) + 1;
        cx.set(&key, &orders);

        let max_total = cx.setting("max_total")?.unwrap_or(1000.0);
        let verdict = check(&order, max_total);
        cx.info(if verdict.ok { "the order is fine" } else { "the order is refused" });
        let data = json!({
            "order_id": order["order_id"], "customer_orders": orders, "units": verdict.units, "total": verdict.total, "ok": verdict.ok,
        });
        Ok(vec![Emit::json("{{name}}.checked", &data)])
    }
}

/// What there is to say about an order.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub units: u64,
    pub total: f64,
    pub ok: bool,
}

/// Whether an order is within the limit. Pure.
pub fn check(order: &Value, max_total: f64) -> Verdict {
    let items = order["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let quantity = |item: &Value| item["quantity"].as_u64().unwrap_or(1);
    let price = |item: &Value| item["unit_price"].as_f64().unwrap_or(0.0);
    let total = order["total"].as_f64().unwrap_or_else(|| items.iter().map(|item| quantity(item) as f64 * price(item)).sum());
    Verdict { units: items.iter().map(quantity).sum(), total, ok: total <= max_total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_stage::testing::MemoryHost;

    #[test]
    fn the_total_is_what_the_order_says_else_the_sum_of_its_items() {
        let items = json!([{ "quantity": 3, "unit_price": 40.0 }, {}]);
        assert_eq!(check(&json!({ "items": items }), 100.0), Verdict { units: 4, total: 120.0, ok: false });
        assert_eq!(check(&json!({ "items": items, "total": 99.0 }), 100.0), Verdict { units: 4, total: 99.0, ok: true });
    }

    #[test]
    fn a_customers_orders_are_counted() {
        let mut host = MemoryHost::default();
        let order = Event::json("order.created", "1", &json!({ "user_id": "7", "total": 1 }));
        for count in 1..=2 {
            let emitted = host.handle::<Check>(&order).unwrap();
            assert_eq!(emitted[0].value()["customer_orders"], count);
        }
    }
}
