//! Reads and writes CloudEvents 1.0 in JSON:
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>. Pure.
//!
//! Used wherever events enter or leave the host: the API, the broker, export and import. What the
//! host adds to an event is in extension attributes that start with [`HOST`].

pub mod http_binding;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::domain::event::LoggedEvent;
use crate::domain::event::{Event, HOST_EVENT_PREFIX};
use crate::domain::field_error::{FieldError, pointer};
use crate::domain::order::whole;
use crate::domain::timestamp;

/// Media type of one event.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// Media type of several.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// Prefix of the host's own extension attributes.
pub const HOST: &str = "postrider";
/// The order that an event belongs to.
pub const HOST_ORDER: &str = "postriderorder";
/// The first event of the chain.
pub const HOST_CORRELATION: &str = "postridercorrelation";

/// Longest type: it is a routing key as well.
pub const TYPE_MAX: usize = 200;
/// A type, as a regular expression.
pub const TYPE_PATTERN: &str = "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$";
/// Longest id, source, subject or content type, characters: a row of the log's index must hold id
/// and source.
const TEXT_MAX: usize = 255;
/// The same, as a regular expression.
pub const TEXT_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]{0,255}$";
/// Most extension attributes.
const ATTRIBUTES_MAX: usize = 64;
/// Longest name of one.
const NAME_MAX: usize = 60;
/// The name of one, as a regular expression.
pub const ATTRIBUTE_PATTERN: &str = "^[a-z0-9]{1,60}$";
/// Longest value of one, characters.
const VALUE_MAX: usize = 1_024;
/// The same, as a regular expression.
pub const VALUE_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]{0,1024}$";

/// Reads an event, or returns every problem. Does not check `specversion`, nor what [`check`]
/// requires.
pub fn read(fields: Map<String, Value>, now_ms: u64) -> Result<Event, Vec<FieldError>> {
    let (event, problems) = draft(fields, now_ms);
    if problems.is_empty() { Ok(event) } else { Err(problems) }
}

/// The same, but returns an event with problems as well, as far as it could be read, so that more
/// problems can be found.
pub fn draft(mut fields: Map<String, Value>, now_ms: u64) -> (Event, Vec<FieldError>) {
    let mut problems = Vec::new();
    fields.remove("specversion");
    let id = text(&mut fields, "id", &mut problems);
    let source = text(&mut fields, "source", &mut problems);
    let event_type = text(&mut fields, "type", &mut problems);
    for (name, value) in [("id", &id), ("source", &source), ("type", &event_type)] {
        if value.as_deref().is_none_or(str::is_empty)
            && !problems.iter().any(|problem| problem.pointer == format!("/{name}"))
        {
            problems.push(FieldError::at(pointer(name), "is missing"));
        }
    }
    let subject = text(&mut fields, "subject", &mut problems).unwrap_or_default();
    let time_ms = match text(&mut fields, "time", &mut problems)
        .map(|text| text.parse::<jiff::Timestamp>())
    {
        None => now_ms,
        Some(Ok(time)) => u64::try_from(time.as_millisecond()).unwrap_or(0),
        Some(Err(_)) => {
            problems.push(FieldError::at(
                "/time",
                "must be a time such as 2026-05-01T09:00:00Z (RFC 3339)",
            ));
            now_ms
        }
    };
    let content_type = text(&mut fields, "datacontenttype", &mut problems)
        .unwrap_or_else(|| "application/json".to_owned());
    let data = data(&mut fields, &content_type, &mut problems);
    let mut attributes = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::String(text) => attributes.push((name, text)),
            Value::Bool(_) | Value::Number(_) => {
                let text =
                    whole(&value).map_or_else(|| value.to_string(), |number| number.to_string());
                attributes.push((name, text));
            }
            Value::Array(_) | Value::Object(_) => {
                problems.push(FieldError::at(
                    pointer(&name),
                    "an extension attribute must be a string, a number or a boolean",
                ));
            }
        }
    }
    attributes.sort();
    let (id, source, event_type) =
        (id.unwrap_or_default(), source.unwrap_or_default(), event_type.unwrap_or_default());
    (
        Event {
            id,
            event_type,
            source,
            subject,
            time_ms,
            content_type,
            data: data.into(),
            attributes,
        },
        problems,
    )
}

/// Removes an optional attribute that must be text; `null` counts as absent.
fn text(
    fields: &mut Map<String, Value>,
    name: &str,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    match fields.remove(name)? {
        Value::String(text) => Some(text),
        Value::Null => None,
        _ => {
            problems.push(FieldError::at(pointer(name), "must be a string"));
            None
        }
    }
}

fn data(
    fields: &mut Map<String, Value>,
    content_type: &str,
    problems: &mut Vec<FieldError>,
) -> Vec<u8> {
    let encoded = text(fields, "data_base64", problems);
    match (encoded, fields.remove("data")) {
        (Some(_), Some(_)) => {
            problems.push(FieldError::at(
                "/data_base64",
                "conflicts with `data`: give only one of them",
            ));
            Vec::new()
        }
        (Some(encoded), None) => STANDARD.decode(encoded).unwrap_or_else(|error| {
            problems.push(FieldError::at("/data_base64", format!("is not Base64: {error}")));
            Vec::new()
        }),
        (None, Some(Value::String(text))) if !is_json(content_type) => text.into_bytes(),
        (None, Some(value)) => value.to_string().into_bytes(),
        (None, None) => Vec::new(),
    }
}

/// A media type without its parameters.
pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a media type is JSON.
pub fn is_json(content_type: &str) -> bool {
    let kind = media_type(content_type);
    kind.eq_ignore_ascii_case("application/json")
        || kind.eq_ignore_ascii_case("text/json")
        || kind.to_ascii_lowercase().ends_with("+json")
}

/// Checks what the host requires of an incoming event beyond CloudEvents; returns every problem.
pub fn check(event: &Event) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let texts = [
        ("id", &event.id),
        ("source", &event.source),
        ("subject", &event.subject),
        ("datacontenttype", &event.content_type),
    ];
    for (name, value) in texts {
        if !is_text(value, TEXT_MAX) {
            problems.push(FieldError::at(
                pointer(name),
                format!(
                    "must be at most {TEXT_MAX} characters long, none of them a control character"
                ),
            ));
        }
    }
    if !is_type(&event.event_type) {
        let rule = format!(
            "must be words of the characters A-Z a-z 0-9 _ - with dots between them, at most {TYPE_MAX} bytes"
        );
        problems.push(FieldError::at("/type", rule));
    } else if event.event_type.starts_with(HOST_EVENT_PREFIX) {
        problems.push(FieldError::at(
            "/type",
            format!("types that start with `{HOST_EVENT_PREFIX}` are the host's own"),
        ));
    }
    if event.attributes.len() > ATTRIBUTES_MAX {
        problems.push(FieldError::at(
            "",
            format!(
                "has {} extension attributes; the most is {ATTRIBUTES_MAX}",
                event.attributes.len()
            ),
        ));
    }
    for (name, value) in &event.attributes {
        let named = (1..=NAME_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !named {
            problems.push(FieldError::at(
                pointer(name),
                format!("the name of an extension attribute is 1 to {NAME_MAX} of the characters a-z 0-9"),
            ));
        } else if !is_text(value, VALUE_MAX) {
            problems.push(FieldError::at(
                pointer(name),
                format!(
                    "must be at most {VALUE_MAX} characters long, none of them a control character"
                ),
            ));
        }
    }
    problems
}

fn is_text(text: &str, most: usize) -> bool {
    text.chars().count() <= most && !text.chars().any(char::is_control)
}

/// Whether a type can be routed.
fn is_type(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    text.len() <= TYPE_MAX && text.split('.').all(word)
}

/// Writes an event of the log as a document that [`read`] accepts.
pub fn write(logged: &LoggedEvent) -> Value {
    let (envelope, event) = (&logged.envelope, &logged.envelope.event);
    let mut document = Map::new();
    document.insert("specversion".into(), json!("1.0"));
    document.insert("id".into(), json!(event.id));
    document.insert("source".into(), json!(event.source));
    document.insert("type".into(), json!(event.event_type));
    if !event.subject.is_empty() {
        document.insert("subject".into(), json!(event.subject));
    }
    document.insert("time".into(), json!(timestamp::text(event.time_ms)));
    document.insert("datacontenttype".into(), json!(event.content_type));
    let as_json = || {
        serde_json::from_slice::<Value>(&event.data)
            .ok()
            .filter(|value| value.to_string().as_bytes() == &event.data[..])
    };
    let as_text = || std::str::from_utf8(&event.data).ok().map(|text| json!(text));
    // Data that JSON would not preserve byte for byte is encoded in Base64.
    match if is_json(&event.content_type) { as_json() } else { as_text() } {
        _ if event.data.is_empty() => {}
        Some(data) => _ = document.insert("data".into(), data),
        None => _ = document.insert("data_base64".into(), json!(STANDARD.encode(&event.data))),
    }
    let host = [
        (HOST_CORRELATION, Some(envelope.correlation_id.clone())),
        (HOST_ORDER, envelope.order_id.clone()),
        ("postriderposition", Some(logged.seq.to_string())),
        ("postriderstage", logged.stage.clone()),
        ("postriderdigest", logged.digest.clone()),
        ("postridercausesource", envelope.cause.as_ref().map(|cause| cause.source.clone())),
        ("postridercauseid", envelope.cause.as_ref().map(|cause| cause.id.clone())),
        ("postriderlogged", Some(timestamp::text(logged.logged_at_ms))),
        ("postriderdue", logged.due_at_ms.map(timestamp::text)),
    ];
    let host = host.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    for (name, value) in event.attributes.iter().cloned().chain(host) {
        document.entry(name).or_insert(Value::String(value));
    }
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Envelope, EventKey};

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn pointers(problems: &[FieldError]) -> Vec<&str> {
        problems.iter().map(|problem| problem.pointer.as_str()).collect()
    }

    #[test]
    fn written_events_can_be_read_back() {
        for (content_type, data) in [
            ("application/json", &br#"{"a":[1,2.5,"x"]}"#[..]),
            ("application/json", b"{ \"spaces\" : 1 }"),
            ("application/json", b"not JSON"),
            ("text/plain", "grüße".as_bytes()),
            ("application/octet-stream", b"\x00\xff"),
            ("application/json", b""),
        ] {
            let event = Event {
                id: "1".into(),
                event_type: "a.b".into(),
                source: "/x".into(),
                subject: String::new(),
                time_ms: 1_700_000_000_123,
                content_type: content_type.into(),
                data: data.into(),
                attributes: vec![("zone".into(), "ä".into())],
            };
            let cause = Some(EventKey { source: "/y".into(), id: "0".into() });
            let envelope =
                Envelope { cause, ..Envelope::first(event.clone(), Some("o".into()), 0) };
            let logged = LoggedEvent {
                seq: 7,
                envelope,
                stage: Some("payment".into()),
                digest: None,
                routed_to: vec![],
                logged_at_ms: 1,
                due_at_ms: None,
            };
            let mut again = read(object(write(&logged)), 0).unwrap();
            again.attributes.retain(|(name, _)| !name.starts_with(HOST));
            assert_eq!(again, event);
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let document = json!({ "id": 7, "type": "", "time": "soon", "data": 1, "data_base64": "!", "ext": {} });
        let problems = read(object(document), 0).unwrap_err();
        assert_eq!(
            pointers(&problems),
            ["/id", "/source", "/type", "/time", "/data_base64", "/ext"]
        );
        let document = json!({ "id": "x".repeat(600), "source": "/a\u{7}", "type": "a..b", "Bad": 1, "long": "x".repeat(5_000) });
        assert_eq!(
            pointers(&check(&read(object(document), 0).unwrap())),
            ["/id", "/source", "/type", "/Bad", "/long"]
        );
        let reserved = json!({ "id": "1", "source": "/a", "type": "postrider.dead-lettered" });
        assert_eq!(pointers(&check(&read(object(reserved), 0).unwrap())), ["/type"]);
    }
}
