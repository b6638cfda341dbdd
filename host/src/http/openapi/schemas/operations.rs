//! Bodies of operators' requests.

use serde_json::{Value, json};

use super::{Named, instant, nullable_string, reference};
use crate::app::dead_letters::{RATE, RATE_MAX};
use crate::domain::subject::KEY_PATTERN;
use crate::http::request::REASON_MAX;

pub(super) fn all() -> [Named; 6] {
    [
        ("Reason", reason()),
        ("RollbackRequest", rollback()),
        ("Replay", replay()),
        ("DeadLetterFilter", dead_letter_filter()),
        ("ReplayMany", replay_many()),
        ("DiscardMany", discard_many()),
    ]
}

fn rate() -> Value {
    json!({ "type": ["integer", "null"], "minimum": 1, "maximum": RATE_MAX, "default": RATE })
}

fn reason() -> Value {
    json!({
        "description": "Why, for the record.",
        "type": ["object", "null"],
        "properties": { "reason": { "type": ["string", "null"], "maxLength": REASON_MAX } },
        "additionalProperties": false,
    })
}

fn rollback() -> Value {
    json!({
        "description": "The version: its digest or the first characters of it; by default the \
            version before the present one.",
        "type": ["object", "null"],
        "properties": { "digest": nullable_string() },
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
