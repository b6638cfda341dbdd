//! Bodies of operators' requests.

use serde_json::{Value, json};

use super::{Named, instant, nullable_string, reference};
use crate::app::dead_letters::{RATE, RATE_MAX};
use crate::domain::subject::KEY_PATTERN;
use crate::http::request::REASON_MAX;
use crate::http::stages::DURATION_MAX_MS as LOG_LEVEL_MAX_MS;

pub(super) fn all() -> [Named; 12] {
    [
        ("Reason", reason()),
        ("LogLevelRequest", log_level()),
        ("RollbackRequest", rollback()),
        ("Component", component()),
        ("Replay", replay()),
        ("DeadLetterFilter", dead_letter_filter()),
        ("ReplayMany", replay_many()),
        ("DiscardMany", discard_many()),
        ("NewApiKey", new_api_key()),
        ("Rotation", rotation()),
        ("RewrapBatch", rewrap_batch()),
        ("Erasure", erasure()),
    ]
}

fn rate() -> Value {
    json!({ "type": ["integer", "null"], "minimum": 1, "maximum": RATE_MAX, "default": RATE })
}

fn reason() -> Value {
    json!({
        "description": "Why, for the record.",
        "type": ["object", "null"],
        "properties": { "reason": reason_or_null() },
        "additionalProperties": false,
    })
}

fn reason_or_null() -> Value {
    json!({ "type": ["string", "null"], "maxLength": REASON_MAX })
}

fn log_level() -> Value {
    json!({
        "description": "How much a stage logs, and for how long: without `duration_ms` until it is set \
            again. `default` stands for the filter of each process.",
        "type": "object",
        "properties": {
            "level": { "enum": ["error", "warn", "info", "debug", "trace", "default"] },
            "duration_ms": {
                "type": ["integer", "null"], "minimum": 1, "maximum": LOG_LEVEL_MAX_MS,
            },
            "reason": reason_or_null(),
        },
        "required": ["level"],
        "additionalProperties": false,
    })
}

fn component() -> Value {
    json!({
        "description": "A WebAssembly component, or a core module that carries its component type, as in \
            a file of the plugins folder.",
        "type": "string",
        "format": "binary",
    })
}

fn new_api_key() -> Value {
    json!({
        "description": "A key of a client. A role is the name of a permission, maybe limited to a \
            stage or to event types: `read`, `operate:stage/payment`, `submit:type/order.*`.",
        "type": "object",
        "properties": {
            "principal": { "type": "string", "pattern": "^[A-Za-z0-9._@:-]{1,100}$" },
            "description": {
                "type": ["string", "null"],
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
                "maxLength": 100,
            },
            "roles": {
                "type": "array",
                "items": { "type": "string", "pattern": ROLE_PATTERN },
                "minItems": 1,
                "maxItems": 50,
            },
            "expires_at": instant(),
        },
        "required": ["principal", "roles"],
        "additionalProperties": false,
    })
}

/// A role, as far as a regular expression can say it.
const ROLE_PATTERN: &str = "^(admin|payloads|secret-names|(read|operate)(:stage/[a-z][a-z0-9-]{0,39})?|submit(:type/[A-Za-z0-9_*#-]{1,40}([.][A-Za-z0-9_*#-]{1,40}){0,3})?)$";

fn rotation() -> Value {
    json!({
        "description": "How long the old key stays valid, milliseconds; a day by default.",
        "type": ["object", "null"],
        "properties": { "overlap_ms": { "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX } },
        "additionalProperties": false,
    })
}

fn rewrap_batch() -> Value {
    json!({
        "description": "Where the batch begins: `next` of the one before, or 0.",
        "type": ["object", "null"],
        "properties": { "after": { "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX } },
        "additionalProperties": false,
    })
}

fn erasure() -> Value {
    json!({
        "description": "Whose subjects are erased, of which kind (by default of every kind), and why.",
        "type": "object",
        "properties": {
            "customer": { "type": "string", "minLength": 1 },
            "kind": nullable_string(),
            "reason": reason_or_null(),
        },
        "required": ["customer"],
        "additionalProperties": false,
    })
}

fn rollback() -> Value {
    json!({
        "description": "The version: its digest or the first characters of it; by default the \
            version before the present one. And why, for the record.",
        "type": ["object", "null"],
        "properties": { "digest": nullable_string(), "reason": reason_or_null() },
        "additionalProperties": false,
    })
}

fn replay() -> Value {
    json!({
        "description": "Without fields the event is replayed unchanged, with `data` with this \
            body, with `edit` with its body after this merge patch (RFC 7396), with `type` as an \
            event of this type, which repairs a message that could not be read.",
        "type": ["object", "null"],
        "properties": { "data": {}, "edit": {}, "type": event_type_or_null() },
        "not": { "anyOf": [
            { "required": ["data", "edit"] },
            { "required": ["edit", "type"], "properties": { "type": { "type": "string" } } },
        ] },
        "additionalProperties": false,
    })
}

fn event_type_or_null() -> Value {
    json!({ "anyOf": [reference("EventType"), { "type": "null" }] })
}

fn dead_letter_filter() -> Value {
    let by =
        |name: &str| json!({ "required": [name], "properties": { name: { "type": "string" } } });
    let by_time = |name: &str| json!({ "required": [name], "properties": { name: { "not": { "type": "null" } } } });
    json!({
        "description": "Selects open dead letters; every one of them with `all`.",
        "type": "object",
        "properties": {
            "stage": nullable_string(),
            "code": nullable_string(),
            "group": nullable_string(),
            "subject": { "type": ["string", "null"], "pattern": KEY_PATTERN },
            "since": instant(),
            "until": instant(),
            "all": { "type": ["boolean", "null"] },
        },
        "additionalProperties": false,
        "anyOf": [
            by("stage"),
            by("code"),
            by("group"),
            by("subject"),
            by_time("since"),
            by_time("until"),
            { "required": ["all"], "properties": { "all": { "const": true } } },
        ],
    })
}

fn replay_many() -> Value {
    json!({
        "description": "Dead letters to replay; `edit` is a merge patch (RFC 7396) for each body.",
        "type": "object",
        "required": ["filter"],
        "properties": {
            "filter": reference("DeadLetterFilter"),
            "rate_per_second": rate(),
            "edit": { "type": ["object", "null"] },
        },
        "additionalProperties": false,
    })
}

fn discard_many() -> Value {
    json!({
        "description": "Dead letters to discard.",
        "type": "object",
        "required": ["filter", "reason"],
        "properties": {
            "filter": reference("DeadLetterFilter"),
            "rate_per_second": rate(),
            "reason": { "type": "string", "pattern": "\\S", "maxLength": REASON_MAX },
        },
        "additionalProperties": false,
    })
}
