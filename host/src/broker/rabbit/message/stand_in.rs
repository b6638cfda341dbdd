//! The event that stands for an unreadable or forged message: its body is the message's, its attributes
//! are the message's headers and properties and where it was sent to, so that an operator can see where
//! it came from, and repair an unreadable one.
//!
//! Bounds: [`DETAILS_MAX_BYTES`] of headers and of properties; a body that is larger than the host
//! accepts is truncated to [`BODY_KEPT_BYTES`], that of a forged message to [`FORGED_KEPT_BYTES`].

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Ingress, Unreadable, value};
use crate::broker::rabbit::origin::Origin;
use crate::domain::event::{Envelope, Event, UNREADABLE, hex, without_nul};

/// Attributes of the substitute: JSON objects.
const HEADERS: &str = "amqpheaders";
const PROPERTIES: &str = "amqpproperties";
/// Where it was sent to.
const EXCHANGE: &str = "amqpexchange";
const ROUTING_KEY: &str = "amqproutingkey";
/// How many bytes the body had, if it is truncated.
const BODY_BYTES: &str = "amqpbodybytes";
/// Headers that the broker counts deliveries in: they differ between deliveries of one message.
const COUNTERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
const DETAILS_MAX_BYTES: usize = 8 << 10;
const BODY_KEPT_BYTES: usize = 64 << 10;
const FORGED_KEPT_BYTES: usize = 4 << 10;

/// A substitute event for a message that is refused for `error`. Its key is a hash of the message, so the
/// same message is the same event, however often it is delivered.
pub(in crate::broker::rabbit) fn stand_in(
    properties: &BasicProperties,
    body: &[u8],
    origin: Origin<'_>,
    ingress: Ingress<'_>,
    error: &Unreadable,
) -> Envelope {
    let Ingress { rules, expiry_ms, body_max_bytes } = ingress;
    let headers = lasting(properties.headers().as_ref());
    let mut hash = Sha256::new();
    // A table is sorted by key, so its text is stable.
    hash.update(format!("{:?}", properties.clone().with_headers(headers.clone())));
    hash.update(body);
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    let mut attributes = vec![
        (
            HEADERS.to_owned(),
            details(headers.inner().iter().map(|(name, value)| {
                let text = value::text(value).unwrap_or_else(|_| format!("{value:?}"));
                (name.as_str(), text)
            })),
        ),
        (PROPERTIES.to_owned(), details(named(properties).into_iter())),
    ];
    let sent_to = [(EXCHANGE, origin.exchange), (ROUTING_KEY, origin.routing_key)];
    attributes.extend(sent_to.map(|(name, text)| (name.to_owned(), without_nul(text.to_owned()))));
    let kept_max = match error {
        Unreadable::Forged { .. } => FORGED_KEPT_BYTES,
        _ if body.len() > body_max_bytes => BODY_KEPT_BYTES,
        _ => body.len(),
    };
    let kept = &body[..kept_max.min(body.len())];
    if kept.len() < body.len() {
        attributes.push((BODY_BYTES.to_owned(), body.len().to_string()));
    }
    let event = Event {
        id: hex(&hash.finalize()[..16]),
        event_type: UNREADABLE.to_owned(),
        source: "/postrider/unreadable".to_owned(),
        subject: String::new(),
        time_ms: rules.now_ms,
        content_type: without_nul(content_type.unwrap_or("application/octet-stream").to_owned()),
        data: Bytes::copy_from_slice(kept),
        attributes,
    };
    Envelope::first(event, None, rules.now_ms + expiry_ms)
}

/// The headers that are the same in every delivery of a message.
fn lasting(headers: Option<&FieldTable>) -> FieldTable {
    let mut lasting = FieldTable::default();
    for (name, value) in headers.into_iter().flat_map(FieldTable::inner) {
        if !COUNTERS.contains(&name.as_str()) {
            lasting.insert(name.clone(), AMQPValue::clone(value));
        }
    }
    lasting
}

/// The properties that are set.
fn named(properties: &BasicProperties) -> Vec<(&'static str, String)> {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let all = [
        ("content-type", text(properties.content_type())),
        ("content-encoding", text(properties.content_encoding())),
        ("delivery-mode", properties.delivery_mode().map(|mode| mode.to_string())),
        ("priority", properties.priority().map(|priority| priority.to_string())),
        ("correlation-id", text(properties.correlation_id())),
        ("reply-to", text(properties.reply_to())),
        ("expiration", text(properties.expiration())),
        ("message-id", text(properties.message_id())),
        ("timestamp", properties.timestamp().map(|seconds| seconds.to_string())),
        ("type", text(properties.kind())),
        ("user-id", text(properties.user_id())),
        ("app-id", text(properties.app_id())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Texts as a JSON object of bounded size; what does not fit is shortened, then left out.
fn details<'a>(texts: impl Iterator<Item = (&'a str, String)>) -> String {
    let (mut kept, mut left) = (BTreeMap::new(), DETAILS_MAX_BYTES);
    for (name, mut text) in texts {
        // Escaped, a character has at most six bytes.
        let room = (left / 6).saturating_sub(name.len());
        if room == 0 {
            break;
        }
        if text.len() > room {
            text.truncate(text.floor_char_boundary(room));
            text.push('…');
        }
        left = left.saturating_sub(json!({ name: text }).to_string().len());
        kept.insert(name, text);
    }
    json!(kept).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cloud_events::ingress::Rules;

    fn ingress() -> Ingress<'static> {
        Ingress {
            rules: Rules::for_tests(1_700_000_000_123),
            body_max_bytes: 100_000,
            expiry_ms: 500_000,
        }
    }

    fn stand_in_for(properties: &BasicProperties, body: &[u8]) -> Envelope {
        let origin = Origin { exchange: "orders.events", routing_key: "a.b" };
        stand_in(properties, body, origin, ingress(), &Unreadable::Batch)
    }

    fn properties(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_message_id("m-1".into()).with_headers(table)
    }

    #[test]
    fn headers_properties_and_body_are_kept() {
        let message = properties(&[
            ("cloudEvents_id", AMQPValue::ShortShortInt(42)),
            ("list", AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into())),
        ]);
        let envelope = stand_in_for(&message, b"not JSON");
        assert_eq!(envelope.validate(), None);
        assert_eq!(envelope.event.data, "not JSON");
        let attributes: BTreeMap<_, _> = envelope.event.attributes.into_iter().collect();
        assert!(attributes[HEADERS].contains(r#""cloudEvents_id":"42""#), "{attributes:?}");
        assert!(attributes[HEADERS].contains("list"), "{attributes:?}");
        assert_eq!(attributes[PROPERTIES], r#"{"message-id":"m-1"}"#);
        assert_eq!((&*attributes[EXCHANGE], &*attributes[ROUTING_KEY]), ("orders.events", "a.b"));
        assert_eq!(attributes.get(BODY_BYTES), None);
    }

    #[test]
    fn whatever_a_message_holds_its_substitute_is_bounded() {
        let long = AMQPValue::LongString("\0💩".repeat(30_000).into());
        let many: Vec<(String, AMQPValue)> =
            (0..200).map(|number| (format!("h{number}"), long.clone())).collect();
        let many: Vec<(&str, AMQPValue)> =
            many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let envelope = stand_in_for(&properties(&many), &vec![b'x'; 10 << 20]);
        assert_eq!(envelope.validate(), None);
        assert_eq!(envelope.event.data.len(), BODY_KEPT_BYTES);
        let size = (BODY_BYTES.to_owned(), "10485760".to_owned());
        assert!(envelope.event.attributes.contains(&size));
    }

    #[test]
    fn of_a_forged_message_little_is_kept() {
        let origin = Origin { exchange: "", routing_key: "q" };
        let forged = Unreadable::Forged { claimed: None, why: "it has no signature".into() };
        let body = vec![b'x'; 100_000];
        let envelope = stand_in(&properties(&[]), &body, origin, ingress(), &forged);
        assert_eq!(envelope.event.data.len(), FORGED_KEPT_BYTES);
        assert_eq!(envelope.validate(), None);
    }

    #[test]
    fn a_message_is_the_same_however_often_it_is_delivered() {
        let id = |headers: &[(&str, AMQPValue)], body: &[u8]| {
            stand_in_for(&properties(headers), body).event.id
        };
        let counted = [("x-delivery-count", AMQPValue::LongLongInt(3))];
        assert_eq!(id(&[], b"{"), id(&counted, b"{"));
        assert_ne!(id(&[], b"{"), id(&[], b"["));
        assert_ne!(id(&[], b"{"), id(&[("a", AMQPValue::Void)], b"{"));
        let other = BasicProperties::default().with_message_id("m-2".into());
        assert_ne!(id(&[], b"{"), stand_in_for(&other, b"{").event.id);
    }
}
