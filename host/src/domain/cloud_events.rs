//! Reads and writes CloudEvents 1.0 in JSON:
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>. Pure.
//!
//! Used wherever events enter or leave the host: the API, the broker, export and import. What the
//! host adds to an event is in extension attributes that start with [`HOST`].

pub mod allow_list;
pub mod ingress;

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::encryption::unreadable;
use crate::domain::event::LoggedEvent;
use crate::domain::event::{Event, HOST_EVENT_PREFIX};
use crate::domain::field_error::{FieldError, pointer};
use crate::domain::json::{self, whole};
use crate::domain::subject::is_dot_segment;
use crate::domain::timestamp;
use crate::domain::trace_context;

/// Media type of one event.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// Media type of several.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// Prefix of the host's own extension attributes.
pub const HOST: &str = "postrider";
/// The subject that an event belongs to.
pub const HOST_SUBJECT: &str = "postridersubject";
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

/// An event in JSON: its attributes, and its data as it was written.
#[derive(Debug, Default)]
pub struct Document {
    /// The members other than `data`.
    pub fields: Map<String, Value>,
    /// The member `data`.
    pub data: Option<Box<RawValue>>,
}

impl Document {
    /// Parses a JSON object that passed [`json::check`](crate::domain::json::check).
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        let data = members.remove("data");
        let fields = members
            .into_iter()
            .map(|(name, value)| Ok((name, serde_json::from_str(value.get())?)))
            .collect::<Result<_, serde_json::Error>>()?;
        Ok(Self { fields, data })
    }
}

/// Reads an event, or returns every problem.
#[cfg(test)]
fn read(document: Document, now_ms: u64) -> Result<Event, Vec<FieldError>> {
    let (event, problems) = draft(document, now_ms);
    if problems.is_empty() { Ok(event) } else { Err(problems) }
}

/// Reads an event, with every problem: one with problems is read as far as possible, so that more
/// can be found. Does not check `specversion`, nor what [`check`] requires.
pub fn draft(document: Document, now_ms: u64) -> (Event, Vec<FieldError>) {
    let Document { mut fields, data: in_json } = document;
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
    let data = data(&mut fields, in_json, &content_type, &mut problems);
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
    in_json: Option<Box<RawValue>>,
    content_type: &str,
    problems: &mut Vec<FieldError>,
) -> Vec<u8> {
    let encoded = text(fields, "data_base64", problems);
    match (encoded, in_json) {
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
        (None, Some(value)) => match serde_json::from_str::<String>(value.get()) {
            Ok(text) if !is_json(content_type) => text.into_bytes(),
            _ => String::from(Box::<str>::from(value)).into_bytes(),
        },
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

/// Whether an event with the key of a stored one is a repetition of it: what it says is the same,
/// however it is written. Times are not compared, because an event without one gets the time of its
/// arrival, nor is the trace.
pub fn is_repetition(stored: &Event, event: &Event) -> bool {
    let attributes = |event: &Event| -> Vec<(String, String)> {
        let all =
            event.attributes.iter().filter(|(name, _)| !trace_context::NAMES.contains(&&**name));
        let mut all: Vec<(String, String)> = all.cloned().collect();
        all.sort();
        all
    };
    stored.event_type == event.event_type
        && stored.subject == event.subject
        && media_type(&stored.content_type).eq_ignore_ascii_case(media_type(&event.content_type))
        && attributes(stored) == attributes(event)
        && is_same_data(stored, event)
}

fn is_same_data(stored: &Event, event: &Event) -> bool {
    let json = |data: &[u8]| serde_json::from_slice::<Value>(data).ok();
    stored.data == event.data
        || (is_json(&event.content_type)
            && json(&stored.data).is_some_and(|stored| Some(stored) == json(&event.data)))
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
    if is_dot_segment(&event.id) {
        problems.push(FieldError::at("/id", "must not be `.` or `..`: no URL can name the event"));
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
pub fn is_type(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    text.len() <= TYPE_MAX && text.split('.').all(word)
}

/// Writes an event of the log as one line of JSON that [`read`] accepts. Data that one line of JSON
/// cannot hold byte for byte is encoded in Base64.
pub fn write(logged: &LoggedEvent) -> String {
    let (envelope, event) = (&logged.envelope, &logged.envelope.event);
    let mut members: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    let time = timestamp::text(event.time_ms);
    let context = [
        ("specversion", "1.0"),
        ("id", &event.id),
        ("source", &event.source),
        ("type", &event.event_type),
        ("time", &time),
        ("datacontenttype", &event.content_type),
    ];
    members.extend(context.map(|(name, text)| (name, json_text(text))));
    if !event.subject.is_empty() {
        members.insert("subject", json_text(&event.subject));
    }
    let unreadable = unreadable(&event.data).map(Cow::into_owned);
    if !event.data.is_empty() && unreadable.is_none() {
        let (name, data) = match written_data(event) {
            Some(data) => ("data", data),
            None => ("data_base64", json_text(&STANDARD.encode(&event.data))),
        };
        members.insert(name, data);
    }
    let host = [
        (HOST_CORRELATION, Some(envelope.correlation_id.clone())),
        (HOST_SUBJECT, envelope.subject_key.as_ref().map(ToString::to_string)),
        ("postriderposition", Some(logged.seq.to_string())),
        ("postriderstage", logged.stage.clone()),
        ("postriderdigest", logged.digest.clone()),
        ("postridercausesource", envelope.cause.as_ref().map(|cause| cause.source.clone())),
        ("postridercauseid", envelope.cause.as_ref().map(|cause| cause.id.clone())),
        ("postriderlogged", Some(timestamp::text(logged.logged_at_ms))),
        ("postriderdue", logged.due_at_ms.map(timestamp::text)),
        ("postriderunreadable", unreadable),
    ];
    let own = event.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let host = host.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    for (name, value) in own.chain(host) {
        members.entry(name).or_insert_with(|| json_text(value));
    }
    serde_json::to_string(&members).expect("texts are JSON")
}

/// The data as a value on one line, if reading it returns the same bytes.
fn written_data(event: &Event) -> Option<Box<RawValue>> {
    if !is_json(&event.content_type) {
        return std::str::from_utf8(&event.data).ok().map(json_text);
    }
    let text = json::check(&event.data).ok()?;
    let is_exact = text.trim() == text && !text.contains(['\n', '\r']);
    RawValue::from_string(text.to_owned()).ok().filter(|_| is_exact)
}

fn json_text(text: &str) -> Box<RawValue> {
    serde_json::value::to_raw_value(text).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use bytes::Bytes;

    use super::*;
    use crate::domain::event::{Envelope, EventKey};

    fn document(value: &Value) -> Document {
        Document::parse(&value.to_string()).unwrap()
    }

    fn pointers(problems: &[FieldError]) -> Vec<&str> {
        problems.iter().map(|problem| problem.pointer.as_str()).collect()
    }

    #[test]
    fn written_events_can_be_read_back() {
        for (content_type, data) in [
            ("application/json", &br#"{"a":[1,2.5,"x"]}"#[..]),
            ("application/json", b"{ \"spaces\" : 1 }"),
            ("application/json", b"{\n\"lines\": 1\n}"),
            ("application/json", b" 1"),
            ("application/json", br#"{"z":1,"a":2.50,"n":123456789012345678901234567890}"#),
            ("application/json", br#"{"a":1,"a":2}"#),
            ("application/json", b"null"),
            ("application/json", br#""text""#),
            ("text/plain", br#"{"a":1}"#),
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
                Envelope { cause, ..Envelope::first(event.clone(), "order/o".parse().ok(), 0) };
            let logged = LoggedEvent {
                seq: 7,
                envelope,
                stage: Some("payment".into()),
                digest: None,
                routed_to: vec![],
                logged_at_ms: 1,
                due_at_ms: None,
            };
            let line = write(&logged);
            assert!(!line.contains('\n'), "{line}");
            let mut again = read(Document::parse(&line).unwrap(), 0).unwrap();
            again.attributes.retain(|(name, _)| !name.starts_with(HOST));
            assert_eq!(again, event);
        }
    }

    #[test]
    fn readable_data_is_written_as_it_is() {
        let text = r#"{"id":"1","source":"/a","type":"a","data":{"tier":"gold","spent":100.10}}"#;
        let event = read(Document::parse(text).unwrap(), 0).unwrap();
        assert_eq!(written_data(&event).unwrap().get(), r#"{"tier":"gold","spent":100.10}"#);
    }

    #[test]
    fn data_and_attributes_keep_their_text() {
        let text = r#"{"id":"1","source":"/a","type":"a","n":12,"data":{"z":1e2, "a":1.10}}"#;
        let event = read(Document::parse(text).unwrap(), 0).unwrap();
        assert_eq!(event.data, r#"{"z":1e2, "a":1.10}"#);
        assert_eq!(event.attributes, [("n".to_owned(), "12".to_owned())]);
        assert!(Document::parse("[]").is_err());
    }

    #[test]
    fn repetitions_say_the_same() {
        let event = Event {
            id: "1".into(),
            event_type: "a.b".into(),
            source: "/x".into(),
            subject: "s".into(),
            time_ms: 1,
            content_type: "application/json".into(),
            data: r#"{"a":1,"b":2}"#.into(),
            attributes: vec![("zone".into(), "z".into()), ("traceparent".into(), "t".into())],
        };
        let same: [fn(&mut Event); 5] = [
            |_| {},
            |event| event.time_ms = 2,
            |event| event.data = r#"{ "b": 2, "a": 1 }"#.into(),
            |event| event.content_type = "Application/JSON; charset=utf-8".into(),
            |event| event.attributes = vec![("zone".into(), "z".into())],
        ];
        for change in same {
            let mut repeated = event.clone();
            change(&mut repeated);
            assert!(is_repetition(&event, &repeated), "{repeated:?}");
        }
        let different: [fn(&mut Event); 6] = [
            |event| event.event_type = "a.c".into(),
            |event| event.subject = "t".into(),
            |event| event.data = r#"{"a":1,"b":3}"#.into(),
            |event| event.data = Bytes::new(),
            |event| event.content_type = "text/plain".into(),
            |event| event.attributes.push(("more".into(), "m".into())),
        ];
        for change in different {
            let mut other = event.clone();
            change(&mut other);
            assert!(!is_repetition(&event, &other), "{other:?}");
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let invalid = json!({ "id": 7, "type": "", "time": "soon", "data": 1, "data_base64": "!", "ext": {} });
        let problems = read(document(&invalid), 0).unwrap_err();
        assert_eq!(
            pointers(&problems),
            ["/id", "/source", "/type", "/time", "/data_base64", "/ext"]
        );
        let invalid = json!({ "id": "x".repeat(600), "source": "/a\u{7}", "type": "a..b", "Bad": 1, "long": "x".repeat(5_000) });
        assert_eq!(
            pointers(&check(&read(document(&invalid), 0).unwrap())),
            ["/id", "/source", "/type", "/Bad", "/long"]
        );
        for id in [".", ".."] {
            let dots = json!({ "id": id, "source": "/a", "type": "a" });
            assert_eq!(pointers(&check(&read(document(&dots), 0).unwrap())), ["/id"]);
        }
        let reserved = json!({ "id": "1", "source": "/a", "type": "postrider.dead-lettered" });
        assert_eq!(pointers(&check(&read(document(&reserved), 0).unwrap())), ["/type"]);
    }
}
