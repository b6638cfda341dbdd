//! Events that other programs publish: binary and structured mode, under the rules of
//! [`ingress`], which hold over HTTP as well.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};

use super::{CLOUD_EVENTS, CLOUD_EVENTS_COLON, Ingress, TRACE, Unreadable, value};
use crate::domain::body;
use crate::domain::cloud_events::ingress::{self, IngestedEvent, Mode};
use crate::domain::field_error::FieldError;
use crate::domain::json;

/// Attributes that are texts by their meaning.
const TEXTS: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

/// Reads an event of another program.
pub(super) fn read(
    properties: &BasicProperties,
    body: Vec<u8>,
    ingress: Ingress<'_>,
) -> Result<IngestedEvent, Unreadable> {
    let Ingress { rules, body_max_bytes, .. } = ingress;
    let encoding = properties.content_encoding().as_ref().map(ShortString::as_str);
    let body = body::decoded(encoding.unwrap_or_default(), body.into(), body_max_bytes)?;
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    let invalid = |problems: Vec<FieldError>| Unreadable::Event(described(&problems));
    match Mode::of(content_type.unwrap_or_default())? {
        Mode::Structured => {
            let text = json::check(body::without_bom(&body))?;
            ingress::structured(text, rules).map_err(invalid)
        }
        Mode::Batch => Err(Unreadable::Batch),
        Mode::OtherFormat => Err(Unreadable::Format(content_type.unwrap_or_default().to_owned())),
        Mode::Binary => {
            let empty = FieldTable::default();
            let headers = properties.headers().as_ref().unwrap_or(&empty);
            let attributes = attributes(headers).map_err(invalid)?;
            ingress::binary(attributes, content_type, body, rules).map_err(invalid)
        }
    }
}

/// The attributes in headers; or every one that is missing or cannot be read.
fn attributes(headers: &FieldTable) -> Result<BTreeMap<String, String>, Vec<FieldError>> {
    let mut attributes = BTreeMap::new();
    let mut problems = Vec::new();
    for (header, value) in headers.inner() {
        let header = header.as_str();
        let name =
            header.strip_prefix(CLOUD_EVENTS).or_else(|| header.strip_prefix(CLOUD_EVENTS_COLON));
        let Some(name) = name else { continue };
        let read = if TEXTS.contains(&name) { value::string(value) } else { value::text(value) };
        match read {
            Ok(text) => {
                let before = attributes.insert(name.to_owned(), text);
                if before.is_some_and(|before| Some(&before) != attributes.get(name)) {
                    problems.push(FieldError::at(format!("/{name}"), "is given twice"));
                }
            }
            Err(why) => {
                // It is there: it is not reported as missing as well.
                attributes.insert(name.to_owned(), String::new());
                problems.push(FieldError::at(format!("/{name}"), why));
            }
        }
    }
    problems.extend(
        ingress::missing(&attributes)
            .into_iter()
            .map(|name| FieldError::at(format!("/{name}"), "is missing")),
    );
    for name in TRACE {
        if let Some(text) = headers.inner().get(name).and_then(|value| value::text(value).ok()) {
            attributes.entry(name.to_owned()).or_insert(text);
        }
    }
    if problems.is_empty() { Ok(attributes) } else { Err(problems) }
}

/// Every problem, in one line: `id is missing; time must be …`.
fn described(problems: &[FieldError]) -> String {
    let described = problems.iter().map(|FieldError { pointer, detail }| {
        match pointer.strip_prefix('/').unwrap_or(pointer) {
            "" => detail.clone(),
            name => format!("`{name}` {detail}"),
        }
    });
    described.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use lapin::types::AMQPValue;

    use super::*;
    use crate::domain::cloud_events::ingress::Rules;
    use crate::domain::event::Event;

    fn ingress() -> Ingress<'static> {
        Ingress { rules: Rules::for_tests(1_700_000_000_123), body_max_bytes: 1_000, expiry_ms: 1 }
    }

    fn message(
        content_type: Option<&str>,
        headers: &[(&str, AMQPValue)],
    ) -> (BasicProperties, FieldTable) {
        let mut table = FieldTable::default();
        for (name, value) in
            [("specversion", "1.0"), ("id", "9"), ("source", "/d"), ("type", "a.b")]
        {
            let name = format!("{CLOUD_EVENTS}{name}");
            table.insert(name.as_str().into(), AMQPValue::LongString(value.into()));
        }
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let properties = BasicProperties::default().with_headers(table.clone());
        match content_type {
            Some(content_type) => (properties.with_content_type(content_type.into()), table),
            None => (properties, table),
        }
    }

    fn binary(headers: &[(&str, AMQPValue)]) -> Result<Event, String> {
        let (properties, _) = message(Some("text/plain"), headers);
        let read = read(&properties, b"x".to_vec(), ingress());
        read.map(|ingested| ingested.event).map_err(|error| error.to_string())
    }

    fn structured(content_type: &str, body: &str) -> Result<IngestedEvent, String> {
        let properties = BasicProperties::default().with_content_type(content_type.into());
        read(&properties, body.as_bytes().to_vec(), ingress()).map_err(|error| error.to_string())
    }

    #[test]
    fn attributes_of_every_type_are_read() {
        let event = binary(&[
            ("cloudEvents_id", AMQPValue::ShortShortInt(42)),
            ("cloudEvents_time", AMQPValue::Timestamp(1_580_702_706)),
            ("cloudEvents:small", AMQPValue::ShortInt(300)),
            ("cloudEvents_source", AMQPValue::ByteArray(b"/bytes".to_vec().into())),
            ("cloudEvents_raw", AMQPValue::ByteArray(b"raw".to_vec().into())),
        ])
        .unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str()), ("42", "/bytes"));
        assert_eq!(event.time_ms, 1_580_702_706_000);
        let attributes: Vec<(&str, &str)> =
            event.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(attributes, [("raw", "cmF3"), ("small", "300")]);
    }

    #[test]
    fn an_attribute_without_a_text_is_refused_with_its_name() {
        for (name, value) in [
            ("list", AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into())),
            ("table", AMQPValue::FieldTable(FieldTable::default())),
            ("nothing", AMQPValue::Void),
            ("id", AMQPValue::FieldTable(FieldTable::default())),
        ] {
            let error = binary(&[(&format!("cloudEvents_{name}"), value)]).unwrap_err();
            assert!(error.contains(&format!("`{name}` ")) && !error.contains("missing"), "{error}");
        }
        let twice = [("cloudEvents:id", AMQPValue::LongString("8".into()))];
        assert!(binary(&twice).is_err_and(|error| error.contains("`id` is given twice")));
    }

    #[test]
    fn names_and_lengths_are_those_of_http() {
        let text = |text: &str| AMQPValue::LongString(text.into());
        for (name, value, expected) in [
            ("cloudEvents_TenantId", text("x"), "`TenantId` the name of an extension attribute"),
            ("cloudEvents_my_attr", text("x"), "`my_attr` the name of an extension attribute"),
            ("cloudEvents_id", text(&"i".repeat(900)), "`id` must be at most 255 characters"),
            ("cloudEvents_id", text(""), "`id` is missing"),
            ("cloudEvents_type", text("a..b"), "`type` must be words"),
            ("cloudEvents_type", text("postrider.x"), "`type` types that start with"),
            ("cloudEvents_specversion", text("0.3"), "`specversion` must be"),
            ("cloudEvents_time", text("soon"), "`time` must be a time"),
            ("cloudEvents_time", AMQPValue::LongLongInt(7), "`time` must be a time"),
            ("cloudEvents_deliverat", text("2099-01-01T00:00:00Z"), "`deliverat` the latest is"),
            ("cloudEvents_zone", text("a\u{7}"), "`zone` must be"),
            (
                "cloudEvents_source",
                text("/orders/api"),
                "`source` `/orders/api` is a source of the",
            ),
            ("cloudEvents_source", text("/orders/stages/payment"), "is a source of the host"),
        ] {
            let error = binary(&[(name, value)]).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn modes_are_told_apart_whatever_the_case() {
        let body = r#"{"specversion":"1.0","id":"c","source":"/d","type":"a.b"}"#;
        for content_type in [
            "application/cloudevents+json",
            "Application/CloudEvents+JSON",
            "application/cloudevents+json ; charset=UTF-8",
        ] {
            assert_eq!(structured(content_type, body).unwrap().event.id, "c", "{content_type}");
        }
        let batch = structured("Application/CloudEvents-Batch+JSON", "[]").unwrap_err();
        assert!(batch.contains("batch"), "{batch}");
        for content_type in ["application/cloudevents+avro", "application/cloudevents"] {
            let error = structured(content_type, body).unwrap_err();
            assert!(error.contains(content_type), "{error}");
        }
        let old = body.replace("1.0", "0.3");
        let error = structured("application/cloudevents+json", &old).unwrap_err();
        assert!(error.contains("`specversion` must be"), "{error}");
    }

    #[test]
    fn binary_and_structured_mode_are_equivalent() {
        let (properties, _) = message(
            Some("application/json"),
            &[
                ("cloudEvents_deliverat", AMQPValue::Timestamp(1_700_000_030)),
                ("cloudEvents_count", AMQPValue::Double(2.0)),
                ("cloudEvents_postridersubject", AMQPValue::LongString("order/o".into())),
            ],
        );
        let one = read(&properties, br#"{"a":1}"#.to_vec(), ingress()).unwrap();
        let body = r#"{"specversion":"1.0","id":"9","source":"/d","type":"a.b","data":{"a":1},
            "deliverat":"2023-11-14T22:13:50Z","count":2.0,"postridersubject":"order/o"}"#;
        assert_eq!(structured("application/cloudevents+json", body).unwrap(), one);
        assert_eq!(
            (one.due_at_ms, one.subject_key),
            (Some(1_700_000_030_000), Some(crate::domain::subject::SubjectKey::new("order", "o")))
        );
    }

    #[test]
    fn bodies_that_cannot_be_read_say_why() {
        let read_as = |content_type: &str, encoding: &str, body: &[u8]| {
            let (properties, _) = message(Some(content_type), &[]);
            let properties = properties.with_content_encoding(encoding.into());
            read(&properties, body.to_vec(), ingress()).map_err(|error| error.to_string())
        };
        for encoding in ["UTF-8", "identity", "binary", ""] {
            assert!(read_as("application/json", encoding, b"{}").is_ok(), "{encoding}");
        }
        for (content_type, encoding, body, expected) in [
            ("application/json", "br", &b"{}"[..], "content-encoding `br`"),
            ("application/json", "gzip", b"{}", "content-encoding `gzip`"),
            ("application/json; charset=utf-16", "", b"{}", "charset `utf-16`"),
            ("application/cloudevents+json; charset=latin1", "", b"{}", "charset `latin1`"),
            ("text/plain", "", &[b'x'; 1_001], "larger than the host accepts: 1000 bytes"),
        ] {
            let error = read_as(content_type, encoding, body).unwrap_err();
            assert!(error.contains(expected), "{content_type} {encoding}: {error}");
        }
        let with_bom = read_as("application/json", "", b"\xef\xbb\xbf{\"a\":1}").unwrap();
        assert_eq!(with_bom.event.data, "{\"a\":1}");
        assert!(read_as("text/plain; charset=latin1", "", b"\xe9").is_ok());
        let body =
            "\u{feff}{\"specversion\":\"1.0\",\"id\":\"c\",\"source\":\"/d\",\"type\":\"a.b\"}";
        assert_eq!(structured("application/cloudevents+json", body).unwrap().event.id, "c");
    }

    #[test]
    fn data_is_checked_against_its_media_type() {
        let (properties, _) = message(None, &[]);
        let error = read(&properties, b"hello".to_vec(), ingress()).unwrap_err().to_string();
        assert!(error.contains("the body is not JSON"), "{error}");
    }
}
