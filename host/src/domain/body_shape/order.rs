//! The adapter of the shipped kind: reads orders in the shapes in which clients send them. Only
//! [`BodyShape::Order`](super::BodyShape::Order) uses it. Pure; reports all problems together.
//!
//! A body may list its items as names (`["Book"]`), as lines (`[{"sku": …, "quantity": …}]`) or as
//! one `product_id` with a `quantity`; stages see only lines. Unknown fields travel on to the
//! stages.

use serde_json::{Map, Value, json};

use crate::domain::body_fields::{id_text, quantity, refuse_both, take_id};
use crate::domain::field_error::FieldError;
use crate::domain::subject::{ID_RULE, is_id};

/// Most lines of one order.
pub const ITEMS_MAX: usize = 1_000;
/// The name of a product that can serve as its id once the spaces within it are replaced, as a
/// regular expression.
pub const NAME_PATTERN: &str = "^ *([A-Za-z0-9_~:@-]([A-Za-z0-9._~:@ -]{0,126}[A-Za-z0-9._~:@-])?|\\.[A-Za-z0-9_~:@-]|\\.[A-Za-z0-9._~:@ -]{1,126}[A-Za-z0-9._~:@-]) *$";

/// The field that holds the id.
pub(super) const ID: &str = "order_id";
/// The field that stages read the customer from.
pub(super) const CUSTOMER: &str = "user_id";

/// Parses an order; the id is taken already.
pub(super) fn parse(
    fields: &mut Map<String, Value>,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let customer = take_id(fields, ["user_id", "customer_id"], problems);
    let items = take_items(fields, problems);
    if let Some(total) = fields.get("total") {
        check_money(total, "/total", problems);
    }
    if let Some(customer) = &customer {
        fields.insert(CUSTOMER.into(), json!(customer));
    }
    fields.insert("items".into(), Value::Array(items));
    customer
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

fn check_money(value: &Value, pointer: &str, problems: &mut Vec<FieldError>) {
    if !value.as_f64().is_some_and(|amount| amount.is_finite() && amount >= 0.0) {
        problems.push(FieldError::at(pointer, "must be a number of at least 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::body_shape::{BodyShape, IdRule, ParsedBody};
    use crate::domain::json::whole;

    fn parse_order(body: Value) -> Result<ParsedBody, Vec<FieldError>> {
        let id = IdRule { field: ID.to_owned(), pattern: None };
        BodyShape::Order.parse(&id, Some(CUSTOMER), body, None)
    }

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
            assert_eq!(parse_order(body).unwrap().body["items"], items);
        }
    }

    #[test]
    fn ids_may_be_numbers_and_unknown_fields_are_kept() {
        let order = parse_order(
            json!({ "order_id": 1, "user_id": 42, "items": ["a"], "force_fail": true }),
        )
        .unwrap();
        assert_eq!((order.id.as_str(), order.customer.as_deref()), ("1", Some("42")));
        assert_eq!(order.body["force_fail"], true);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let body = json!({ "order_id": "a/b", "user_id": [], "items": [{ "sku": "", "quantity": -1, "unit_price": "x" }, {}, 1.5], "total": -2 });
        let pointers: Vec<String> =
            parse_order(body).unwrap_err().into_iter().map(|problem| problem.pointer).collect();
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
            assert_eq!(parse_order(body).unwrap_err().len(), 1);
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
        let order =
            parse_order(json!({ "order_id": 7.0, "items": [{ "sku": 1.0, "quantity": 3.0 }] }))
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
            let problems = parse_order(body).unwrap_err();
            assert_eq!(
                problems.iter().map(|problem| problem.pointer.as_str()).collect::<Vec<_>>(),
                pointers
            );
        }
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
}
