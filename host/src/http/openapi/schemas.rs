//! What no type says, as JSON Schema: bodies that are taken apart by hand, so that all that is
//! wrong with one is said at once.

use serde_json::{Value, json};

use crate::app::dead_letters::{RATE, RATE_MAX};
use crate::domain::cloud_events::http_binding::BATCH_MAX;
use crate::domain::cloud_events::{ATTRIBUTE_PATTERN, TEXT_PATTERN, VALUE_PATTERN};
use crate::domain::order::{ID_PATTERN, ITEMS_MAX, NAME_PATTERN, QUANTITY_MAX};
use crate::http::fields::REASON_MAX;

/// Whether the body may be left out.
pub(super) fn is_optional(reference: &str) -> bool {
    ["Reason", "RollBack", "Replay", "Json"]
        .iter()
        .any(|name| reference.strip_prefix("#/components/schemas/") == Some(name))
}

/// Standard Base64 with its padding, and no bits beyond the last byte.
const BASE64_PATTERN: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

type Named = (&'static str, Value);

/// Every such schema by its name.
pub(super) fn by_name() -> impl Iterator<Item = Named> {
    orders().into_iter().chain(operation()).chain(events())
}

fn id() -> Value {
    json!({ "$ref": "#/components/schemas/Id" })
}

fn quantity() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": QUANTITY_MAX })
}

fn money() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

fn instant() -> Value {
    json!({ "anyOf": [
        { "type": "string", "format": "date-time" },
        { "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX },
    ] })
}

fn text_or_nothing() -> Value {
    json!({ "type": ["string", "null"] })
}

fn rate() -> Value {
    json!({ "type": ["integer", "null"], "minimum": 1, "maximum": RATE_MAX, "default": RATE })
}

/// Orders and stock.
fn orders() -> [Named; 5] {
    [
        (
            "Id",
            json!({
                "description": "A number counts as its digits.",
                "anyOf": [
                    { "type": "string", "pattern": ID_PATTERN },
                    { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                ],
            }),
        ),
        (
            "NewOrder",
            json!({
                "description": "An order: `items`, or one `product_id` (or `sku`) with a `quantity`. Other fields travel on to the stages.",
                "type": "object",
                "properties": {
                    "order_id": id(),
                    "user_id": id(),
                    "customer_id": id(),
                    "total": money(),
                    "items": { "type": "array", "minItems": 1, "maxItems": ITEMS_MAX, "items": { "$ref": "#/components/schemas/OrderLine" } },
                    "product_id": id(),
                    "sku": id(),
                    "quantity": quantity(),
                    "unit_price": money(),
                },
                "oneOf": [
                    { "required": ["items"], "not": any_of(&["product_id", "sku", "quantity", "unit_price"]) },
                    { "required": ["product_id"], "not": any_of(&["items", "sku"]) },
                    { "required": ["sku"], "not": any_of(&["items", "product_id"]) },
                ],
                "not": { "required": ["user_id", "customer_id"] },
                "examples": [
                    { "order_id": "123", "user_id": "42", "items": ["Book"], "total": 20.0 },
                    { "customer_id": "cust_123", "items": [{ "product_id": "prod_001", "quantity": 2 }] },
                    { "user_id": 1, "product_id": 1, "quantity": 1 },
                ],
            }),
        ),
        (
            "OrderLine",
            json!({
                "description": "A product by its name or id, once; or with a quantity.",
                "anyOf": [
                    { "type": "string", "pattern": NAME_PATTERN },
                    { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                    {
                        "type": "object",
                        "properties": { "product_id": id(), "sku": id(), "quantity": quantity(), "unit_price": money() },
                        "oneOf": [{ "required": ["product_id"] }, { "required": ["sku"] }],
                    },
                ],
            }),
        ),
        (
            "Stock",
            json!({
                "description": "A product, named by `sku`, by `product_id`, or by a name that can serve as one; and how many of it arrived.",
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
                        {
                            "required": ["product_name"],
                            "properties": { "product_name": { "pattern": ID_PATTERN } },
                            "not": any_of(&["sku", "product_id"]),
                        },
                        { "required": ["name"], "properties": { "name": { "pattern": ID_PATTERN } }, "not": any_of(&["sku", "product_id"]) },
                    ] },
                    { "oneOf": [{ "required": ["stock"] }, { "required": ["quantity"] }] },
                    { "not": { "required": ["product_name", "name"] } },
                ],
                "examples": [{ "product_name": "iPhone", "stock": 50 }, { "sku": "l-1", "name": "Lamp", "quantity": 2 }],
            }),
        ),
        (
            "Product",
            json!({
                "description": "A product as its stage keeps it (`products.stage` and `products.prefix`).",
                "type": "object",
                "properties": { "sku": { "type": "string" }, "available": { "type": "integer" } },
            }),
        ),
    ]
}

/// What operators ask for.
fn operation() -> [Named; 6] {
    [
        (
            "Reason",
            json!({
                "description": "Why, for the record.",
                "type": ["object", "null"],
                "properties": { "reason": { "type": ["string", "null"], "maxLength": REASON_MAX } },
                "additionalProperties": false,
            }),
        ),
        (
            "RollBack",
            json!({
                "description": "Which version: the digest, or how it begins; none: the last one that was another.",
                "type": ["object", "null"],
                "properties": { "digest": text_or_nothing() },
                "additionalProperties": false,
            }),
        ),
        (
            "Replay",
            json!({
                "description": "Nothing: as it was. `data`: with this body. `edit`: with its body after this merge patch (RFC 7396).",
                "type": ["object", "null"],
                "properties": { "data": {}, "edit": {} },
                "not": { "required": ["data", "edit"] },
                "additionalProperties": false,
            }),
        ),
        (
            "LetterFilter",
            json!({
                "description": "Which open dead letters; every one of them with `all`.",
                "type": "object",
                "properties": {
                    "stage": text_or_nothing(),
                    "code": text_or_nothing(),
                    "group": text_or_nothing(),
                    "order": text_or_nothing(),
                    "since": instant(),
                    "until": instant(),
                    "all": { "type": ["boolean", "null"] },
                },
                "additionalProperties": false,
                "anyOf": [
                    { "required": ["stage"], "properties": { "stage": { "type": "string" } } },
                    { "required": ["code"], "properties": { "code": { "type": "string" } } },
                    { "required": ["group"], "properties": { "group": { "type": "string" } } },
                    { "required": ["order"], "properties": { "order": { "type": "string" } } },
                    { "required": ["since"], "properties": { "since": { "not": { "type": "null" } } } },
                    { "required": ["until"], "properties": { "until": { "not": { "type": "null" } } } },
                    { "required": ["all"], "properties": { "all": { "const": true } } },
                ],
            }),
        ),
        (
            "ReplayMany",
            json!({
                "description": "Letters to run again; `edit` is a merge patch (RFC 7396) for each body.",
                "type": "object",
                "required": ["filter"],
                "properties": {
                    "filter": { "$ref": "#/components/schemas/LetterFilter" },
                    "rate_per_second": rate(),
                    "edit": { "type": ["object", "null"] },
                },
                "additionalProperties": false,
            }),
        ),
        (
            "DiscardMany",
            json!({
                "description": "Letters to close for good.",
                "type": "object",
                "required": ["filter", "reason"],
                "properties": {
                    "filter": { "$ref": "#/components/schemas/LetterFilter" },
                    "rate_per_second": rate(),
                    "reason": { "type": "string", "pattern": "\\S", "maxLength": REASON_MAX },
                },
                "additionalProperties": false,
            }),
        ),
    ]
}

/// Events of other programs.
fn events() -> [Named; 4] {
    let attribute = || json!({ "type": ["string", "null"], "pattern": TEXT_PATTERN });
    [
        ("EventType", json!(super::event_type_schema())),
        (
            "CloudEvent",
            json!({
                "description": "A CloudEvent 1.0 in JSON. `deliverat` schedules it.",
                "type": "object",
                "required": ["specversion", "id", "source", "type"],
                "properties": {
                    "specversion": { "const": "1.0" },
                    "id": { "type": "string", "minLength": 1, "pattern": TEXT_PATTERN },
                    "source": { "type": "string", "minLength": 1, "pattern": TEXT_PATTERN },
                    "type": { "$ref": "#/components/schemas/EventType" },
                    "subject": attribute(),
                    "time": { "type": ["string", "null"], "format": "date-time" },
                    "datacontenttype": attribute(),
                    "data": {},
                    "data_base64": { "type": ["string", "null"], "pattern": BASE64_PATTERN },
                    "deliverat": instant(),
                },
                "patternProperties": { ATTRIBUTE_PATTERN: { "anyOf": [
                    { "type": ["number", "boolean", "null"] },
                    { "type": "string", "pattern": VALUE_PATTERN },
                ] } },
                "additionalProperties": { "type": "null" },
                "not": { "required": ["data", "data_base64"], "properties": { "data_base64": { "type": "string" } } },
                "examples": [
                    { "specversion": "1.0", "id": "9", "source": "/desk", "type": "order.flagged", "subject": "123", "data": { "by": "Ada" } },
                ],
            }),
        ),
        (
            "CloudEvents",
            json!({
                "description": "A batch: all of them, or none.",
                "type": "array",
                "maxItems": BATCH_MAX,
                "items": { "$ref": "#/components/schemas/CloudEvent" },
            }),
        ),
        ("Json", json!({ "description": "Any JSON." })),
    ]
}

fn any_of(names: &[&str]) -> Value {
    json!({ "anyOf": names.iter().map(|name| json!({ "required": [name] })).collect::<Vec<_>>() })
}
