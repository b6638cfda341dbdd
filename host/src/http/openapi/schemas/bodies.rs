//! Bodies of subjects, stock and products.

use serde_json::{Map, Value, json};

use super::{Named, reference};
use crate::domain::body_fields::QUANTITY_MAX;
use crate::domain::body_shape::BodyShape;
use crate::domain::body_shape::order::{ITEMS_MAX, NAME_PATTERN};
use crate::domain::subject::ID_PATTERN;
use crate::domain::subject_kind::SubjectKind;

pub(super) fn all() -> [Named; 4] {
    [("Id", id_schema()), ("OrderLine", order_line()), ("Stock", stock()), ("Product", product())]
}

/// The body of a new subject.
pub(in crate::http::openapi) fn new_subject(kind: &SubjectKind) -> Value {
    let shape = match kind.body {
        BodyShape::Order => new_order(),
        BodyShape::Plain => plain(kind),
    };
    match &kind.schema {
        None => shape,
        Some(schema) => with_schema(shape, schema.document(), kind),
    }
}

/// Any JSON object with an id and perhaps a customer.
fn plain(kind: &SubjectKind) -> Value {
    let mut properties = Map::new();
    properties.extend(kind.customer_field.iter().map(|field| (field.clone(), id())));
    properties.insert(kind.id.field.clone(), id());
    json!({
        "description": format!("The body of a new {}.", kind.name),
        "type": "object",
        "properties": properties,
    })
}

/// A shape with the schema that the configuration adds.
fn with_schema(mut shape: Value, schema: &Value, kind: &SubjectKind) -> Value {
    if schema.to_string().contains("\"$ref\"") {
        // A resource of its own, so that its references stay within it.
        let mut schema = schema.clone();
        if let Some(members) = schema.as_object_mut() {
            let own = format!("urn:postrider:subjects:{}", kind.name);
            members.entry("$id").or_insert_with(|| own.into());
        }
        shape["allOf"] = json!([schema]);
        return shape;
    }
    for (name, member) in schema.as_object().into_iter().flatten() {
        match (shape.get_mut(name), member) {
            (Some(Value::Object(known)), Value::Object(more)) if name == "properties" => {
                known.extend(more.clone());
            }
            _ => shape[name] = member.clone(),
        }
    }
    shape
}

fn id() -> Value {
    reference("Id")
}

fn quantity() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": QUANTITY_MAX })
}

fn money() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

fn any_of(names: &[&str]) -> Value {
    json!({ "anyOf": names.iter().map(|name| json!({ "required": [name] })).collect::<Vec<_>>() })
}

fn id_schema() -> Value {
    json!({
        "description": "An integer is read as its decimal digits.",
        "anyOf": [
            { "type": "string", "pattern": ID_PATTERN },
            { "type": "integer", "minimum": 0, "maximum": u64::MAX },
        ],
    })
}

fn new_order() -> Value {
    json!({
        "description": "An order: `items`, or one `product_id` (or `sku`) with a `quantity`. \
            Other fields are passed on to the stages.",
        "type": "object",
        "properties": {
            "order_id": id(),
            "user_id": id(),
            "customer_id": id(),
            "total": money(),
            "items": {
                "type": "array",
                "minItems": 1,
                "maxItems": ITEMS_MAX,
                "items": reference("OrderLine"),
            },
            "product_id": id(),
            "sku": id(),
            "quantity": quantity(),
            "unit_price": money(),
        },
        "oneOf": [
            {
                "required": ["items"],
                "not": any_of(&["product_id", "sku", "quantity", "unit_price"]),
            },
            { "required": ["product_id"], "not": any_of(&["items", "sku"]) },
            { "required": ["sku"], "not": any_of(&["items", "product_id"]) },
        ],
        "not": { "required": ["user_id", "customer_id"] },
        "examples": [
            { "order_id": "123", "user_id": "42", "items": ["Book"], "total": 20.0 },
            {
                "customer_id": "cust_123",
                "items": [{ "product_id": "prod_001", "quantity": 2 }],
            },
            { "user_id": 1, "product_id": 1, "quantity": 1 },
        ],
    })
}

fn order_line() -> Value {
    json!({
        "description": "A product by name or id, once; or an object with a quantity.",
        "anyOf": [
            { "type": "string", "pattern": NAME_PATTERN },
            { "type": "integer", "minimum": 0, "maximum": u64::MAX },
            {
                "type": "object",
                "properties": {
                    "product_id": id(),
                    "sku": id(),
                    "quantity": quantity(),
                    "unit_price": money(),
                },
                "oneOf": [{ "required": ["product_id"] }, { "required": ["sku"] }],
            },
        ],
    })
}

fn stock() -> Value {
    let by_name = |name: &str| {
        json!({
            "required": [name],
            "properties": { name: { "pattern": ID_PATTERN } },
            "not": any_of(&["sku", "product_id"]),
        })
    };
    json!({
        "description": "Stock of a product that arrived. The product is named by `sku`, by \
            `product_id`, or by a name that is a valid id.",
        "type": "object",
        "properties": {
            "sku": id(),
            "product_id": id(),
            "product_name": { "type": "string" },
            "name": { "type": "string" },
            "stock": quantity(),
            "quantity": quantity(),
        },
        "allOf": [
            { "oneOf": [
                { "required": ["sku"] },
                { "required": ["product_id"] },
                by_name("product_name"),
                by_name("name"),
            ] },
            { "oneOf": [{ "required": ["stock"] }, { "required": ["quantity"] }] },
            { "not": { "required": ["product_name", "name"] } },
        ],
        "examples": [
            { "product_name": "iPhone", "stock": 50 },
            { "sku": "l-1", "name": "Lamp", "quantity": 2 },
        ],
    })
}

fn product() -> Value {
    json!({
        "description":
            "A product as its stage keeps it (`products.stage` and `products.prefix`).",
        "type": "object",
        "properties": { "sku": { "type": "string" }, "available": { "type": "integer" } },
    })
}
