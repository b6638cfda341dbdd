//! Parses stock as clients send it; reports all problems together. Pure.

use serde_json::{Value, json};

use crate::domain::body_fields::{quantity, refuse_both, take_id};
use crate::domain::field_error::FieldError;
use crate::domain::subject::{ID_RULE, is_id};

/// Stock that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedStock {
    /// The product.
    pub sku: String,
    /// The payload of `product.stocked`.
    pub body: Value,
}

/// Parses stock for a product: `{sku | product_id | product_name, name?, stock | quantity}`.
pub fn parse_stock(body: Value) -> Result<ParsedStock, Vec<FieldError>> {
    let mut problems = Vec::new();
    let Value::Object(mut fields) = body else {
        return Err(vec![FieldError::at("", "must be a JSON object")]);
    };
    refuse_both(&fields, "product_name", "name", &mut problems);
    refuse_both(&fields, "stock", "quantity", &mut problems);
    let name = fields.remove("product_name").or_else(|| fields.remove("name"));
    let name = name.and_then(|name| {
        let text = name.as_str().map(ToOwned::to_owned);
        if text.is_none() {
            problems.push(FieldError::at("/product_name", "must be a string"));
        }
        text
    });
    let sku = match take_id(&mut fields, ["sku", "product_id"], &mut problems) {
        Some(sku) => sku,
        None => match name.as_deref().map(|name| (name, is_id(name))) {
            Some((name, true)) => name.to_owned(),
            Some((_, false)) => {
                problems.push(FieldError::at(
                    "/product_name",
                    format!("cannot serve as SKU ({ID_RULE}): give a `sku`"),
                ));
                String::new()
            }
            None => {
                problems.push(FieldError::at(
                    "/sku",
                    "name the product: `sku`, `product_id` or `product_name`",
                ));
                String::new()
            }
        },
    };
    let key = if fields.contains_key("stock") { "stock" } else { "quantity" };
    let quantity = quantity(fields.get(key), &format!("/{key}"), &mut problems);
    if problems.is_empty() {
        Ok(ParsedStock { body: json!({ "sku": sku, "name": name, "quantity": quantity }), sku })
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_accepts_three_names_for_the_product() {
        assert_eq!(
            parse_stock(json!({ "product_name": "iPhone", "stock": 50 })).unwrap().sku,
            "iPhone"
        );
        let stock = parse_stock(json!({ "sku": "l-1", "name": "Lamp", "quantity": 2 })).unwrap();
        assert_eq!(stock.body, json!({ "sku": "l-1", "name": "Lamp", "quantity": 2 }));
        let pointers: Vec<String> = parse_stock(json!({ "stock": 0 }))
            .unwrap_err()
            .into_iter()
            .map(|problem| problem.pointer)
            .collect();
        assert_eq!(pointers, ["/sku", "/stock"]);
    }

    #[test]
    fn fields_with_the_same_meaning_are_refused() {
        let stock = json!({ "sku": 1, "product_id": 1, "product_name": "a", "name": "a", "stock": 1, "quantity": 1 });
        let pointers: Vec<String> =
            parse_stock(stock).unwrap_err().into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/name", "/quantity", "/product_id"]);
    }
}
