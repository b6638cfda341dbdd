//! Recordings, as `stage::recording` writes them.

use serde_json::{Value, json};

use super::{Named, nullable_string, reference};

pub(super) fn all() -> [Named; 9] {
    [
        ("Recorded", recorded()),
        ("RecordedEvent", event()),
        ("RecordedOutcome", outcome()),
        ("RecordedEmit", emit()),
        ("Recording", recording()),
        ("RecordedInputs", inputs()),
        ("RecordedKeys", keys()),
        ("RecordedDecision", decision()),
        ("JsonBytes", json_bytes()),
    ]
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn string() -> Value {
    json!({ "type": "string" })
}

fn strings() -> Value {
    json!({ "type": "array", "items": string() })
}

fn or_null(name: &str, description: &str) -> Value {
    json!({ "description": description, "oneOf": [reference(name), { "type": "null" }] })
}

/// CloudEvents extension attributes: pairs of name and value, in their order.
fn attributes() -> Value {
    json!({
        "type": "array",
        "items": { "type": "array", "prefixItems": [string(), string()], "items": false },
    })
}

/// An object with one property, which tells the variants of an enum apart.
fn variant(name: &str, description: &str, schema: &Value) -> Value {
    json!({
        "description": description,
        "type": "object",
        "required": [name],
        "properties": { name: schema },
    })
}

fn recorded() -> Value {
    json!({
        "description": "A settled delivery with its recording.",
        "type": "object",
        "required": ["stage", "event", "round", "attempt", "settled_at_ms"],
        "properties": {
            "stage": string(),
            "subject_key": nullable_string(),
            "event": reference("RecordedEvent"),
            "round": { "description": "From 1; every replay starts a new round.",
                "type": "integer", "minimum": 0 },
            "attempt": { "description": "The attempt that settled it, from 1.",
                "type": "integer", "minimum": 0 },
            "version": { "description": "Version of the plugin that settled it.",
                "type": ["string", "null"] },
            "digest": { "description": "SHA-256 of the plugin that settled it.",
                "type": ["string", "null"] },
            "host": { "description": "The host that settled it; null: it was not recorded.",
                "type": ["string", "null"] },
            "settled_at_ms": { "description": "Milliseconds since 1970-01-01 UTC.",
                "type": "integer", "minimum": 0 },
            "recording":
                or_null("Recording", "The stage's inputs; null when they cannot be read."),
            "outcome": or_null(
                "RecordedOutcome",
                "The outcome; null when an emitted event is no longer in the log.",
            ),
        },
    })
}

fn event() -> Value {
    json!({
        "description": "The event that the stage processed.",
        "type": "object",
        "required": [
            "id", "source", "type", "subject", "time_ms", "content_type", "data", "correlation_id",
        ],
        "properties": {
            "id": string(),
            "source": string(),
            "type": string(),
            "subject": string(),
            "time_ms": count(),
            "content_type": string(),
            "data": reference("JsonBytes"),
            "attributes": attributes(),
            "correlation_id": string(),
            "cause": or_null("EventKey", "The event that caused this one."),
            "hops": count(),
        },
    })
}

fn outcome() -> Value {
    let emitted = json!({ "type": "array", "items": reference("RecordedEmit") });
    let dead = json!({
        "type": "object",
        "required": ["code"],
        "properties": { "code": string() },
    });
    json!({
        "description": "The outcome of a delivery.",
        "oneOf": [
            variant("done", "The events that the stage emitted.", &emitted),
            variant("dead", "The delivery was dead-lettered.", &dead),
        ],
    })
}

fn emit() -> Value {
    json!({
        "description": "An event that a stage emitted.",
        "type": "object",
        "required": ["id", "type", "subject", "content_type", "data", "delay_ms"],
        "properties": {
            "id": string(),
            "type": string(),
            "subject": string(),
            "content_type": string(),
            "data": reference("JsonBytes"),
            "delay_ms": count(),
            "attributes": attributes(),
        },
    })
}

fn recording() -> Value {
    json!({
        "description": "The inputs of a stage, and what it decided.",
        "type": "object",
        "required": ["now_ms", "decided"],
        "properties": {
            "now_ms": { "description": "The stage's clock, milliseconds since 1970-01-01 UTC.",
                "type": "integer", "minimum": 0 },
            "given": reference("RecordedInputs"),
            "decided": reference("RecordedDecision"),
        },
    })
}

fn inputs() -> Value {
    json!({
        "description": "What the host answered to the stage.",
        "type": "object",
        "properties": {
            "settings": { "description": "Plain settings by key; null: not set.",
                "type": "object", "additionalProperties": nullable_string() },
            "reads": { "description": "State before the call, by key; null: absent.",
                "type": "object" },
            "lists": { "description": "Answers of `list-keys`, without the call's own writes.",
                "type": "array", "items": reference("RecordedKeys") },
            "incomplete": { "description": "The inputs exceeded `recording.max_bytes`.",
                "type": "boolean" },
        },
    })
}

fn keys() -> Value {
    json!({
        "description": "One answer of `list-keys`.",
        "type": "object",
        "required": ["prefix", "after", "limit", "keys"],
        "properties": {
            "prefix": string(),
            "after": string(),
            "limit": count(),
            "keys": strings(),
        },
    })
}

fn decision() -> Value {
    let done = json!({
        "type": "object",
        "required": ["writes"],
        "properties": {
            "writes": { "description": "State that the stage wrote.", "type": "object" },
            "delays_ms": {
                "description": "Delay of each emitted event; empty when none is delayed.",
                "type": "array",
                "items": count(),
            },
        },
    });
    let dead = json!({
        "type": "object",
        "required": ["code", "retryable"],
        "properties": {
            "code": string(),
            "retryable": {
                "description": "Whether it was dead-lettered because its attempts were used up.",
                "type": "boolean",
            },
        },
    });
    json!({
        "description": "What a stage decided; the events that it emitted are in the log.",
        "oneOf": [
            variant("done", "The stage emitted events and wrote state.", &done),
            variant("dead", "The delivery was dead-lettered.", &dead),
        ],
    })
}

fn json_bytes() -> Value {
    json!({
        "description": "Bytes: text as it is, anything else in Base64.",
        "oneOf": [
            string(),
            { "type": "object", "required": ["base64"], "properties": { "base64": string() } },
        ],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::event::EventKey;
    use crate::stage::recording::{
        Decided, JsonBytes, Listed, Recorded, RecordedEmit, RecordedEvent, RecordedInputs,
        RecordedOutcome, Recording, Writes,
    };

    /// A recording in which every field is present.
    fn complete() -> Recorded {
        let bytes = || JsonBytes(b"1".to_vec().into());
        let listed = Listed { prefix: "a".into(), after: String::new(), limit: 1, keys: vec![] };
        let key = || "k".to_owned();
        let emitted = RecordedEmit {
            id: key(),
            event_type: key(),
            subject: key(),
            content_type: key(),
            data: bytes(),
            delay_ms: 1,
            attributes: vec![(key(), key())],
        };
        Recorded {
            stage: key(),
            subject_key: "order/1".parse().ok(),
            event: RecordedEvent {
                id: key(),
                source: key(),
                event_type: key(),
                subject: key(),
                time_ms: 1,
                content_type: key(),
                data: bytes(),
                attributes: vec![(key(), key())],
                correlation_id: key(),
                cause: Some(EventKey { source: key(), id: key() }),
                hops: 1,
            },
            round: 1,
            attempt: 1,
            version: Some(key()),
            digest: Some(key()),
            host: Some(key()),
            settled_at_ms: 1,
            recording: Some(Recording {
                now_ms: 1,
                given: RecordedInputs {
                    settings: [(key(), None)].into(),
                    reads: [(key(), Some(bytes()))].into(),
                    lists: vec![listed],
                    incomplete: true,
                },
                decided: Decided::Done { writes: Writes::All([].into()), delays_ms: vec![1] },
            }),
            outcome: Some(RecordedOutcome::Done(vec![emitted])),
        }
    }

    fn assert_same_fields(value: &Value, schema: &Value) {
        let written: BTreeSet<&String> =
            value.as_object().into_iter().flatten().map(|(name, _)| name).collect();
        let described: BTreeSet<&String> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
        assert_eq!(written, described);
    }

    #[test]
    fn schemas_have_the_fields_of_a_recording() {
        let value = json!(complete());
        let recording = &value["recording"];
        for (value, schema) in [
            (&value, recorded()),
            (&value["event"], event()),
            (&value["outcome"]["done"][0], emit()),
            (recording, super::recording()),
            (&recording["given"], inputs()),
            (&recording["given"]["lists"][0], keys()),
            (&recording["decided"]["done"], decision()["oneOf"][0]["properties"]["done"].clone()),
        ] {
            assert_same_fields(value, &schema);
        }
    }
}
