//! Parses and validates orders and stock as clients send them; reports all problems together. Pure.
//!
//! A body may list its items as names (`["Book"]`), as lines (`[{"sku": …, "quantity": …}]`) or as
//! one `product_id` with a `quantity`; stages see only lines. Unknown fields travel on to the
//! stages.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::event::hex;
use crate::domain::field_error::FieldError;
use crate::domain::json::{self, whole};
use crate::domain::subject::{ID_RULE, is_id};

/// Most lines of one order.
pub const ITEMS_MAX: usize = 1_000;
/// Largest quantity of one line.
pub const QUANTITY_MAX: u64 = 1_000_000;
/// The name of a product that can serve as its id once the spaces within it are replaced, as a
/// regular expression.
pub const NAME_PATTERN: &str = "^ *([A-Za-z0-9_~:@-]([A-Za-z0-9._~:@ -]{0,126}[A-Za-z0-9._~:@-])?|\\.[A-Za-z0-9_~:@-]|\\.[A-Za-z0-9._~:@ -]{1,126}[A-Za-z0-9._~:@-]) *$";

/// An order that can be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedOrder {
    /// Its id.
    pub id: String,
    /// The customer.
    pub customer: Option<String>,
    /// The body as stages see it.
    pub body: Value,
    /// Detects a different body under the same id: SHA-256 of the canonical form, in hex.
    pub fingerprint: String,
}

/// Stock that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedStock {
    /// The product.
    pub sku: String,
    /// The payload of `product.stocked`.
    pub body: Value,
}

/// Parses an order. Without an `order_id` it gets one from `idempotency_key` (the same for the same
/// key), else a new `UUIDv7`.
pub fn parse_order(
    body: Value,
    idempotency_key: Option<&str>,
) -> Result<ParsedOrder, Vec<FieldError>> {
    let mut problems = Vec::new();
    let fingerprint = hex(&Sha256::digest(json::canonical(&body)));
    let Value::Object(mut fields) = body else {
        return Err(vec![FieldError::at("", "must be a JSON object")]);
    };
    let id = take_only_id(&mut fields, "order_id", &mut problems)
        .unwrap_or_else(|| new_id(idempotency_key));
    let customer = take_id(&mut fields, ["user_id", "customer_id"], &mut problems);
    let items = take_items(&mut fields, &mut problems);
    if let Some(total) = fields.get("total") {
        check_money(total, "/total", &mut problems);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    fields.insert("order_id".into(), json!(id));
    if let Some(customer) = &customer {
        fields.insert("user_id".into(), json!(customer));
    }
    fields.insert("items".into(), Value::Array(items));
    Ok(ParsedOrder { id, customer, body: Value::Object(fields), fingerprint })
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

fn new_id(idempotency_key: Option<&str>) -> String {
    match idempotency_key {
        Some(key) => uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key.as_bytes()).to_string(),
        None => uuid::Uuid::now_v7().to_string(),
    }
}

/// Refuses two fields with the same meaning.
fn refuse_both(
    fields: &Map<String, Value>,
    one: &str,
    other: &str,
    problems: &mut Vec<FieldError>,
) {
    if fields.contains_key(one) && fields.contains_key(other) {
        problems.push(FieldError::at(
            format!("/{other}"),
            format!("conflicts with `{one}`: give only one of them"),
        ));
    }
}

/// Removes the only one of two keys that is there, as text; a number counts as its digits.
fn take_id(
    fields: &mut Map<String, Value>,
    keys: [&str; 2],
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    refuse_both(fields, keys[0], keys[1], problems);
    keys.into_iter().find_map(|key| take_only_id(fields, key, problems))
}

/// Removes an id, as text.
fn take_only_id(
    fields: &mut Map<String, Value>,
    key: &str,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let value = fields.remove(key)?;
    id_text(&value).or_else(|| {
        problems.push(FieldError::at(
            format!("/{key}"),
            format!("must be a whole number or a string of {ID_RULE}"),
        ));
        None
    })
}

fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if is_id(text) => Some(text.clone()),
        _ => whole(value).map(|number| number.to_string()),
    }
}

/// The fields that describe the only line of an order without `items`.
const LINE: [&str; 4] = ["product_id", "sku", "quantity", "unit_price"];

fn take_items(fields: &mut Map<String, Value>, problems: &mut Vec<FieldError>) -> Vec<Value> {
    for key in LINE {
        refuse_both(fields, "items", key, problems);
    }
    match fields.remove("items") {
        Some(Value::Array(items)) if (1..=ITEMS_MAX).contains(&items.len()) => items
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| line(item, &format!("/items/{index}"), problems))
            .collect(),
        Some(_) => {
            problems.push(FieldError::at(
                "/items",
                format!("must be a list of 1 to {ITEMS_MAX} items"),
            ));
            Vec::new()
        }
        None if fields.contains_key("product_id") || fields.contains_key("sku") => {
            let mut item = Map::new();
            for key in LINE {
                if let Some(value) = fields.remove(key) {
                    item.insert(key.into(), value);
                }
            }
            line(Value::Object(item), "", problems).into_iter().collect()
        }
        None => {
            problems.push(FieldError::at(
                "/items",
                "is missing: give `items`, or one `product_id` with a `quantity`",
            ));
            Vec::new()
        }
    }
}

/// One line of an order as stages see it.
fn line(item: Value, pointer: &str, problems: &mut Vec<FieldError>) -> Option<Value> {
    let Value::Object(mut fields) = item else {
        let sku = id_text(&item).or_else(|| item.as_str().map(slug).filter(|sku| is_id(sku)));
        if sku.is_none() {
            problems.push(FieldError::at(
                pointer,
                format!("must be a product ({ID_RULE}) or an object with `sku` and `quantity`"),
            ));
        }
        return sku.map(|sku| json!({ "sku": sku, "quantity": 1 }));
    };
    let before = problems.len();
    if fields.contains_key("sku") && fields.contains_key("product_id") {
        problems.push(FieldError::at(
            format!("{pointer}/product_id"),
            "conflicts with `sku`: give only one of them",
        ));
    }
    let key = if fields.contains_key("sku") { "sku" } else { "product_id" };
    let sku = fields.remove(key).as_ref().and_then(id_text);
    if sku.is_none() {
        problems.push(FieldError::at(
            format!("{pointer}/{key}"),
            format!("must name the product: a whole number or a string of {ID_RULE}"),
        ));
    }
    let quantity = match fields.remove("quantity") {
        None => 1,
        given => quantity(given.as_ref(), &format!("{pointer}/quantity"), problems),
    };
    if let Some(price) = fields.get("unit_price") {
        check_money(price, &format!("{pointer}/unit_price"), problems);
    }
    fields.insert("sku".into(), json!(sku));
    fields.insert("quantity".into(), json!(quantity));
    (problems.len() == before).then_some(Value::Object(fields))
}

/// A product name with spaces becomes an id.
fn slug(name: &str) -> String {
    name.trim_matches(' ').replace(' ', "-")
}

fn quantity(value: Option<&Value>, pointer: &str, problems: &mut Vec<FieldError>) -> u64 {
    match value.and_then(whole) {
        Some(quantity) if (1..=QUANTITY_MAX).contains(&quantity) => quantity,
        _ => {
            problems.push(FieldError::at(
                pointer,
                format!("must be a whole number from 1 to {QUANTITY_MAX}"),
            ));
            0
        }
    }
}

fn check_money(value: &Value, pointer: &str, problems: &mut Vec<FieldError>) {
    if !value.as_f64().is_some_and(|amount| amount.is_finite() && amount >= 0.0) {
        problems.push(FieldError::at(pointer, "must be a number of at least 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_shapes_of_items_become_lines() {
        for (body, items) in [
            (
                json!({ "items": ["Book", "Red Lamp"] }),
                json!([{ "sku": "Book", "quantity": 1 }, { "sku": "Red-Lamp", "quantity": 1 }]),
            ),
            (
                json!({ "items": [{ "product_id": 7, "quantity": 2, "unit_price": 1.5 }] }),
                json!([{ "sku": "7", "quantity": 2, "unit_price": 1.5 }]),
            ),
            (json!({ "product_id": 1, "quantity": 3 }), json!([{ "sku": "1", "quantity": 3 }])),
        ] {
            assert_eq!(parse_order(body, None).unwrap().body["items"], items);
        }
    }

    #[test]
    fn ids_may_be_numbers_and_unknown_fields_are_kept() {
        let order = parse_order(
            json!({ "order_id": 1, "user_id": 42, "items": ["a"], "force_fail": true }),
            None,
        )
        .unwrap();
        assert_eq!((order.id.as_str(), order.customer.as_deref()), ("1", Some("42")));
        assert_eq!(order.body["force_fail"], true);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let body = json!({ "order_id": "a/b", "user_id": [], "items": [{ "sku": "", "quantity": -1, "unit_price": "x" }, {}, 1.5], "total": -2 });
        let pointers: Vec<String> = parse_order(body, None)
            .unwrap_err()
            .into_iter()
            .map(|problem| problem.pointer)
            .collect();
        let expected = [
            "/order_id",
            "/user_id",
            "/items/0/sku",
            "/items/0/quantity",
            "/items/0/unit_price",
            "/items/1/product_id",
            "/items/2",
            "/total",
        ];
        assert_eq!(pointers, expected);
        for body in [json!([]), json!({}), json!({ "items": [] }), json!({ "items": "Book" })] {
            assert_eq!(parse_order(body, None).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        let numbers = [
            json!(2),
            json!(2.0),
            json!(-0.0),
            json!(1e19),
            json!(u64::MAX),
            json!(2.5),
            json!(-1),
            json!(2e19),
            json!("2"),
        ];
        let expected = [
            Some(2),
            Some(2),
            Some(0),
            Some(10_000_000_000_000_000_000),
            Some(u64::MAX),
            None,
            None,
            None,
            None,
        ];
        assert_eq!(numbers.each_ref().map(whole), expected);
        let order = parse_order(
            json!({ "order_id": 7.0, "items": [{ "sku": 1.0, "quantity": 3.0 }] }),
            None,
        )
        .unwrap();
        assert_eq!(
            (order.id.as_str(), &order.body["items"]),
            ("7", &json!([{ "sku": "1", "quantity": 3 }]))
        );
    }

    #[test]
    fn fields_with_the_same_meaning_are_refused() {
        for (body, pointers) in [
            (json!({ "user_id": 1, "customer_id": 1, "items": ["a"] }), vec!["/customer_id"]),
            (
                json!({ "product_id": 1, "quantity": 1, "items": ["a"] }),
                vec!["/product_id", "/quantity"],
            ),
            (json!({ "product_id": 1, "sku": 1 }), vec!["/product_id"]),
            (json!({ "items": [{ "product_id": 1, "sku": 1 }] }), vec!["/items/0/product_id"]),
        ] {
            let problems = parse_order(body, None).unwrap_err();
            assert_eq!(
                problems.iter().map(|problem| problem.pointer.as_str()).collect::<Vec<_>>(),
                pointers
            );
        }
        let stock = json!({ "sku": 1, "product_id": 1, "product_name": "a", "name": "a", "stock": 1, "quantity": 1 });
        let pointers: Vec<String> =
            parse_stock(stock).unwrap_err().into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/name", "/quantity", "/product_id"]);
    }

    #[test]
    fn the_pattern_of_names_agrees_with_the_parser() {
        let name = regex::Regex::new(NAME_PATTERN).unwrap();
        let long = "x".repeat(128);
        for text in [
            "",
            "a",
            "a b",
            " a  b ",
            " ",
            "a/b",
            "ä",
            "a\t",
            "A.b_c~d:e@f-9",
            ".",
            "..",
            "...",
            ".a",
            "a.",
            "..a",
            "a..",
            " . ",
            " .. ",
            ". .",
            ".. ",
            "._",
            ".: ",
            &long,
            &format!("{long}y"),
            &format!(" {long} "),
        ] {
            assert_eq!(
                line(json!(text), "", &mut Vec::new()).is_some(),
                name.is_match(text),
                "{text}"
            );
        }
    }

    #[test]
    fn ids_derive_from_the_idempotency_key_and_fingerprints_from_the_body() {
        let parse = |item: &str, key| parse_order(json!({ "items": [item] }), key).unwrap();
        assert_eq!(parse("a", Some("k")).id, parse("b", Some("k")).id);
        assert_ne!(parse("a", Some("k")).fingerprint, parse("b", Some("k")).fingerprint);
        assert_ne!(parse("a", None).id, parse("a", None).id);
    }

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
}
