//! Events of other programs.

use serde_json::{Value, json};

use super::{Named, instant, reference};
use crate::domain::cloud_events::ingress::BATCH_MAX;
use crate::domain::cloud_events::{ATTRIBUTE_PATTERN, TEXT_PATTERN, VALUE_PATTERN};
use crate::http::openapi::event_type_schema;

/// Standard Base64 with its padding, and no bits beyond the last byte.
const BASE64_PATTERN: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

pub(super) fn all() -> [Named; 4] {
    [
        ("EventType", json!(event_type_schema())),
        ("CloudEvent", cloud_event()),
        ("CloudEvents", cloud_events()),
        ("Json", json!({ "description": "Any JSON." })),
    ]
}

fn cloud_event() -> Value {
    let attribute = || json!({ "type": ["string", "null"], "pattern": TEXT_PATTERN });
    let required = || json!({ "type": "string", "minLength": 1, "pattern": TEXT_PATTERN });
    json!({
        "description": "A CloudEvent 1.0 in JSON. `deliverat` schedules it.",
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": required(),
            "source": required(),
            "type": reference("EventType"),
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
        "not": {
            "required": ["data", "data_base64"],
            "properties": { "data_base64": { "type": "string" } },
        },
        "examples": [{
            "specversion": "1.0",
            "id": "9",
            "source": "/desk",
            "type": "order.flagged",
            "subject": "123",
            "data": { "by": "Ada" },
        }],
    })
}

fn cloud_events() -> Value {
    json!({
        "description": "A batch. Either every event of it is accepted, or none.",
        "type": "array",
        "maxItems": BATCH_MAX,
        "items": reference("CloudEvent"),
    })
}
