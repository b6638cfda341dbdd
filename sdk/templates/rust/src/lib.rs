//! {{name}}: checks the total of an order against a limit and counts the orders of its customer.
//!
//! State: `customer/<user id>` has the number of orders of the customer. Setting: `max_total`.

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

    /// Handles one event. Its state writes and the events it returns are committed atomically.
    fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
        let order = event.object()?;
        if order["force_fail"] == true {
            return Err(Failure::retry("forced", "the order requests a failure (`force_fail`)"));
        }
        let customer = order["user_id"].as_str().map_or_else(|| order["user_id"].to_string(), str::to_owned);
        let key = format!("customer/{customer}");
        let orders = cx.get::<u64>(&key)?.unwrap_or(0) + 1;
        cx.set(&key, &orders);

        let max_total = cx.setting("max_total")?.unwrap_or(1000.0);
        let verdict = check(&order, max_total);
        cx.info(if verdict.ok { "accepted" } else { "above the limit" });
        let data = json!({
            "order_id": order["order_id"], "customer_orders": orders, "units": verdict.units, "total": verdict.total, "ok": verdict.ok,
        });
        Ok(vec![Emit::json("{{name}}.checked", &data)])
    }
}

#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub units: u64,
    pub total: f64,
    pub ok: bool,
}

/// Checks whether an order is within the limit. Pure.
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
    fn the_total_defaults_to_the_sum_of_the_items() {
        let items = json!([{ "quantity": 3, "unit_price": 40.0 }, {}]);
        assert_eq!(check(&json!({ "items": items }), 100.0), Verdict { units: 4, total: 120.0, ok: false });
        assert_eq!(check(&json!({ "items": items, "total": 99.0 }), 100.0), Verdict { units: 4, total: 99.0, ok: true });
    }

    #[test]
    fn orders_are_counted_per_customer() {
        let mut host = MemoryHost::default();
        let order = Event::json("order.created", "1", &json!({ "user_id": "7", "total": 1 }));
        for count in 1..=2 {
            let emitted = host.handle::<Check>(&order).unwrap();
            assert_eq!(emitted[0].value()["customer_orders"], count);
        }
    }
}
