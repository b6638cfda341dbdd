//! Envelopes as AMQP messages and back: CloudEvents 1.0 in binary mode (attributes in headers),
//! structured mode is read as well.
//!
//! The host's own headers carry what CloudEvents has no attribute for; a message without them comes
//! from another program ([`foreign`]) and starts a chain of its own. Pure: no connection is needed.

mod foreign;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod stand_in;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::broker::{Outgoing, Sender};
use crate::domain::body::BodyError;
use crate::domain::cloud_events::STRUCTURED;
use crate::domain::cloud_events::ingress::{IngestedEvent, Rules};
use crate::domain::event::{Envelope, Event, EventKey, TIME_MAX_MS};
use crate::domain::timestamp;

pub(super) use self::stand_in::stand_in;
pub(super) use self::value::unsigned;

/// Prefix of CloudEvents attributes in headers; the colon form is read as well.
const CLOUD_EVENTS: &str = "cloudEvents_";
const CLOUD_EVENTS_COLON: &str = "cloudEvents:";
/// W3C trace context is sent under its own name as well: <https://www.w3.org/TR/trace-context/>.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

const SUBJECT: &str = "postrider-subject";
const CUSTOMER: &str = "postrider-customer";
const CORRELATION: &str = "postrider-correlation";
const CAUSE_SOURCE: &str = "postrider-cause-source";
const CAUSE_ID: &str = "postrider-cause-id";
const HOPS: &str = "postrider-hops";
const EXPIRES_MS: &str = "postrider-expires-ms";
const ROUND: &str = "postrider-round";
const ATTEMPT: &str = "postrider-attempt";
/// Why the message stands for one that the broker cannot carry.
const UNSENDABLE: &str = "postrider-unsendable";

/// Highest round and attempt.
const COUNT_MAX: u32 = 1_000_000;

/// Persistent.
const DELIVERY_MODE: u8 = 2;

/// Properties of a message; its payload is the event's data.
pub(super) fn encode(message: &Outgoing) -> BasicProperties {
    let (envelope, event) = (&*message.envelope, &message.envelope.event);
    let mut headers = FieldTable::default();
    let mut put = |key: &str, value: &str| {
        headers.insert(key.into(), AMQPValue::LongString(LongString::from(value)));
    };
    put("cloudEvents_specversion", "1.0");
    put("cloudEvents_id", &event.id);
    put("cloudEvents_source", &event.source);
    put("cloudEvents_type", &event.event_type);
    put("cloudEvents_subject", &event.subject);
    put("cloudEvents_time", &timestamp::text(event.time_ms));
    for (name, value) in &event.attributes {
        // CloudEvents does not allow a name that is too long for a header.
        if name.len() <= 64 {
            put(&format!("{CLOUD_EVENTS}{name}"), value);
            if TRACE.contains(&name.as_str()) {
                put(name, value);
            }
        }
    }
    if let Some(subject) = &envelope.subject_key {
        put(SUBJECT, subject);
    }
    if envelope.customer_hash != 0 {
        put(CUSTOMER, &envelope.customer_hash.to_string());
    }
    put(CORRELATION, &envelope.correlation_id);
    if let Some(cause) = &envelope.cause {
        put(CAUSE_SOURCE, &cause.source);
        put(CAUSE_ID, &cause.id);
    }
    put(HOPS, &envelope.hops.to_string());
    put(EXPIRES_MS, &envelope.expires_at_ms.to_string());
    if let Some(direct) = &message.direct {
        put(ROUND, &direct.round.to_string());
        put(ATTEMPT, &direct.attempt.to_string());
    }
    let properties =
        BasicProperties::default().with_delivery_mode(DELIVERY_MODE).with_headers(headers);
    match ShortString::try_new(event.content_type.as_str()) {
        Ok(content_type) => properties.with_content_type(content_type),
        Err(_) => properties,
    }
}

/// Properties of a message without a body, in place of one that the broker cannot carry: it names the
/// delivery, so that its stage dead-letters it.
pub(super) fn encode_unsendable(message: &Outgoing, why: &str) -> BasicProperties {
    let Envelope { event, subject_key, correlation_id, .. } = &*message.envelope;
    let event = Event {
        subject: String::new(),
        attributes: Vec::new(),
        content_type: "application/octet-stream".to_owned(),
        ..event.clone()
    };
    let mut envelope = Envelope::first(event, subject_key.clone(), message.envelope.expires_at_ms);
    envelope.correlation_id.clone_from(correlation_id);
    envelope.customer_hash = message.envelope.customer_hash;
    let properties = encode(&Outgoing { envelope: Arc::new(envelope), ..message.clone() });
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(UNSENDABLE.into(), AMQPValue::LongString(why.into()));
    properties.with_headers(headers)
}

/// At most as many bytes as the frame has that carries the properties: every header is a long
/// string, everything else is short.
pub(super) fn header_bytes(properties: &BasicProperties) -> usize {
    const HEADER: usize = 6;
    const REST: usize = 512;
    let headers = properties.headers().as_ref();
    let size = |(name, value): (&ShortString, &AMQPValue)| {
        let value = value.as_long_string().map_or(0, |text| text.as_bytes().len());
        HEADER + name.as_str().len() + value
    };
    REST + headers.into_iter().flat_map(|table| table.inner().iter().map(size)).sum::<usize>()
}

/// The bytes of a message.
pub(super) fn bytes(delivery: &Delivery) -> u64 {
    (delivery.data.len() + header_bytes(&delivery.properties)) as u64
}

/// A decoded message.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) envelope: Arc<Envelope>,
    pub(super) round: u32,
    pub(super) attempt: u32,
    pub(super) sender: Sender,
}

/// Why a message is not an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the CloudEvents attribute `{0}` is missing")]
    Missing(&'static str),
    #[error("the CloudEvents attribute `{0}` is invalid: {1}")]
    Invalid(&'static str, String),
    #[error("the body is not a CloudEvent in JSON")]
    Json(#[from] serde_json::Error),
    #[error("not a valid CloudEvent: {0}")]
    Event(String),
    #[error("batches are not supported over AMQP: send each event as a message of its own")]
    Batch,
    #[error("the event format `{0}` is not supported: send `{STRUCTURED}`")]
    Format(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the header `{0}` is not a valid number")]
    Number(&'static str),
    #[error("the event has {0}")]
    Unstorable(String),
    /// A host sent it in place of a message that the broker cannot carry.
    #[error("{why}")]
    Unsendable {
        /// Names the delivery.
        decoded: Box<Decoded>,
        why: String,
    },
}

/// What messages of other programs are checked against, and what they get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ingress<'a> {
    pub(super) rules: Rules<'a>,
    /// Largest body, after it is decompressed.
    pub(super) body_max_bytes: usize,
    /// How long an event is valid once it is due.
    pub(super) expiry_ms: u64,
}

/// Decodes a message of this program or of another one.
pub(super) fn decode(
    properties: &BasicProperties,
    body: Vec<u8>,
    ingress: Ingress<'_>,
) -> Result<Decoded, Unreadable> {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let decoded = match header(headers, CORRELATION) {
        Some(correlation_id) => {
            let decoded = own(properties, headers, correlation_id, body, ingress)?;
            if let Some(why) = header(headers, UNSENDABLE) {
                return Err(Unreadable::Unsendable { decoded: Box::new(decoded), why });
            }
            decoded
        }
        None => of_another_program(foreign::read(properties, body, ingress)?, ingress),
    };
    match decoded.envelope.validate() {
        Some(why) => Err(Unreadable::Unstorable(why)),
        None => Ok(decoded),
    }
}

/// A message that a host published, exactly as it was.
fn own(
    properties: &BasicProperties,
    headers: &FieldTable,
    correlation_id: String,
    body: Vec<u8>,
    ingress: Ingress<'_>,
) -> Result<Decoded, Unreadable> {
    let Ingress { rules, expiry_ms, .. } = ingress;
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    let cause = header(headers, CAUSE_SOURCE)
        .zip(header(headers, CAUSE_ID))
        .map(|(source, id)| EventKey { source, id });
    let envelope = Envelope {
        subject_key: header(headers, SUBJECT).and_then(|text| text.parse().ok()),
        customer_hash: number(headers, CUSTOMER)?.unwrap_or(0),
        correlation_id,
        cause,
        hops: number(headers, HOPS)?.map_or(0, |hops| u32::try_from(hops).unwrap_or(u32::MAX)),
        expires_at_ms: number(headers, EXPIRES_MS)?
            .unwrap_or(rules.now_ms + expiry_ms)
            .min(TIME_MAX_MS),
        event: own_event(headers, content_type, body, rules.now_ms)?,
    };
    let (round, attempt) = (count(headers, ROUND)?, count(headers, ATTEMPT)?);
    Ok(Decoded { envelope: Arc::new(envelope), round, attempt, sender: Sender::Host })
}

/// An event that starts a chain of its own.
fn of_another_program(ingested: IngestedEvent, ingress: Ingress<'_>) -> Decoded {
    let IngestedEvent { event, subject_key, correlation_id, due_at_ms } = ingested;
    let expires_at_ms = due_at_ms.unwrap_or(ingress.rules.now_ms) + ingress.expiry_ms;
    let mut envelope = Envelope::first(event, subject_key, expires_at_ms.min(TIME_MAX_MS));
    envelope.correlation_id = correlation_id.unwrap_or(envelope.correlation_id);
    let sender = Sender::OtherProgram { due_at_ms };
    Decoded { envelope: Arc::new(envelope), round: 1, attempt: 1, sender }
}

fn own_event(
    headers: &FieldTable,
    content_type: Option<&str>,
    body: Vec<u8>,
    now_ms: u64,
) -> Result<Event, Unreadable> {
    let mut attributes: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in headers.inner() {
        let name = key.as_str().strip_prefix(CLOUD_EVENTS);
        if let Some((name, value)) = name.zip(plain(value)) {
            attributes.insert(name.to_owned(), value);
        }
    }
    attributes.remove("specversion");
    let time_ms = time_of(attributes.remove("time"), now_ms)?;
    let mut required = |name: &'static str| {
        attributes.remove(name).filter(|value| !value.is_empty()).ok_or(Unreadable::Missing(name))
    };
    Ok(Event {
        id: required("id")?,
        source: required("source")?,
        event_type: required("type")?,
        subject: attributes.remove("subject").unwrap_or_default(),
        time_ms,
        content_type: content_type.unwrap_or("application/json").to_owned(),
        data: body.into(),
        attributes: attributes.into_iter().collect(),
    })
}

fn time_of(text: Option<String>, now_ms: u64) -> Result<u64, Unreadable> {
    let Some(text) = text else { return Ok(now_ms) };
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|error: jiff::Error| Unreadable::Invalid("time", error.to_string()))?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// A text, or a number, as hosts send them.
fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        other => value::text(other).ok(),
    }
}

fn header(headers: &FieldTable, key: &str) -> Option<String> {
    headers.inner().get(key).and_then(plain)
}

fn number(headers: &FieldTable, key: &'static str) -> Result<Option<u64>, Unreadable> {
    header(headers, key).map(|text| text.parse().map_err(|_| Unreadable::Number(key))).transpose()
}

/// Rounds and attempts start at 1 and are bounded.
fn count(headers: &FieldTable, key: &'static str) -> Result<u32, Unreadable> {
    let count = number(headers, key)?.unwrap_or(1);
    u32::try_from(count)
        .ok()
        .filter(|count| (1..=COUNT_MAX).contains(count))
        .ok_or(Unreadable::Number(key))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Direct;

    fn ingress() -> Ingress<'static> {
        Ingress {
            rules: Rules::for_tests(1_700_000_000_123),
            body_max_bytes: 1_000,
            expiry_ms: 500_000,
        }
    }

    fn envelope() -> Envelope {
        Envelope {
            event: Event {
                id: "e1".into(),
                event_type: "payment.authorized".into(),
                source: "/orders/stages/payment".into(),
                subject: "o-1".into(),
                time_ms: 1_700_000_000_007,
                content_type: "application/octet-stream".into(),
                data: Bytes::from_static(b"\x00\xff"),
                attributes: vec![
                    ("traceparent".into(), "00-a-b-01".into()),
                    ("zone".into(), "ä".into()),
                ],
            },
            subject_key: "order/o-1".parse().ok(),
            customer_hash: u64::MAX,
            correlation_id: "c".into(),
            cause: Some(EventKey { source: "/orders/api".into(), id: "e0".into() }),
            hops: 3,
            expires_at_ms: 1_700_000_900_000,
        }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let message = Outgoing {
            envelope: Arc::new(envelope()),
            direct: Some(Direct { stage: "x".into(), round: 2, attempt: 7 }),
            mandatory: true,
        };
        let decoded =
            decode(&encode(&message), message.envelope.event.data.to_vec(), ingress()).unwrap();
        assert_eq!((&*decoded.envelope, decoded.round, decoded.attempt), (&envelope(), 2, 7));
    }

    #[test]
    fn what_cannot_be_sent_is_named_by_a_small_message() {
        let mut large = envelope();
        large.event.attributes = vec![("a".into(), "x".repeat(200_000))];
        let direct = Some(Direct { stage: "x".into(), round: 2, attempt: 7 });
        let message = Outgoing { envelope: Arc::new(large), direct, mandatory: true };
        assert!(header_bytes(&encode(&message)) > 200_000);
        let properties = encode_unsendable(&message, "it is too large");
        assert!(header_bytes(&properties) < 2_000);
        let Err(Unreadable::Unsendable { decoded, why }) =
            decode(&properties, Vec::new(), ingress())
        else {
            panic!("it is read as an event");
        };
        assert_eq!((decoded.round, decoded.attempt, why.as_str()), (2, 7, "it is too large"));
        assert_eq!(decoded.envelope.key(), message.envelope.key());
    }

    fn properties(content_type: &str, headers: &[(&str, &str)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert((*key).into(), AMQPValue::LongString((*value).into()));
        }
        BasicProperties::default().with_content_type(content_type.into()).with_headers(table)
    }

    #[test]
    fn events_of_other_programs_are_read_in_both_modes() {
        let headers = [
            ("cloudEvents:specversion", "1.0"),
            ("cloudEvents:id", "9"),
            ("cloudEvents:source", "/desk"),
            ("cloudEvents:type", "order.flagged"),
            ("cloudEvents:subject", "7"),
        ];
        let binary =
            decode(&properties("text/plain", &headers), b"hello".to_vec(), ingress()).unwrap();
        let body = br#"{"specversion":"1.0","id":"9","source":"/desk","type":"order.flagged","subject":"7","datacontenttype":"text/plain","data":"hello"}"#;
        let structured = decode(
            &properties("application/cloudevents+json; charset=utf-8", &[]),
            body.to_vec(),
            ingress(),
        )
        .unwrap();
        assert_eq!(binary.envelope, structured.envelope);
        let envelope = &binary.envelope;
        assert_eq!(
            (envelope.event.data.as_ref(), envelope.subject_key.as_deref()),
            (&b"hello"[..], Some("order/7"))
        );
        assert_eq!(
            (envelope.correlation_id.as_str(), envelope.hops, envelope.expires_at_ms),
            ("9", 0, ingress().rules.now_ms + ingress().expiry_ms)
        );
        assert_eq!(
            (envelope.event.time_ms, binary.round, binary.attempt),
            (ingress().rules.now_ms, 1, 1)
        );
        assert_eq!(binary.sender, Sender::OtherProgram { due_at_ms: None });
    }

    #[test]
    fn an_event_in_an_event_is_two() {
        let inner = br#"{"specversion":"1.0","id":"inner","source":"/x","type":"x"}"#;
        let event = Event {
            content_type: STRUCTURED.into(),
            data: Bytes::from_static(inner),
            ..envelope().event
        };
        let message = Outgoing {
            envelope: Arc::new(Envelope { event, ..envelope() }),
            direct: None,
            mandatory: false,
        };
        let decoded = decode(&encode(&message), inner.to_vec(), ingress()).unwrap();
        assert_eq!(decoded.envelope, message.envelope);
    }

    #[test]
    fn numbers_that_cannot_be_are_no_trouble_later() {
        let with = |key, value| {
            let event = [
                (CORRELATION, "9"),
                ("cloudEvents_id", "9"),
                ("cloudEvents_source", "/desk"),
                ("cloudEvents_type", "x"),
                (key, value),
            ];
            decode(&properties("text/plain", &event), Vec::new(), ingress())
        };
        for (key, value) in [(ROUND, "0"), (ATTEMPT, "0"), (ATTEMPT, "4294967297"), (ROUND, "one")]
        {
            assert!(
                matches!(with(key, value), Err(Unreadable::Number(header)) if header == key),
                "{key}: {value}"
            );
        }
        assert_eq!(with(HOPS, "4294967296").unwrap().envelope.hops, u32::MAX);
        assert_eq!(
            with(EXPIRES_MS, "18446744073709551615").unwrap().envelope.expires_at_ms,
            TIME_MAX_MS
        );
    }

    #[test]
    fn headers_of_the_host_mean_nothing_in_messages_of_others() {
        let event = [
            ("cloudEvents_specversion", "1.0"),
            ("cloudEvents_id", "9"),
            ("cloudEvents_source", "/desk"),
            ("cloudEvents_type", "x"),
            (ATTEMPT, "1000000"),
            (ROUND, "7"),
            (HOPS, "none"),
            (EXPIRES_MS, "1"),
        ];
        let decoded = decode(&properties("text/plain", &event), Vec::new(), ingress()).unwrap();
        assert_eq!((decoded.round, decoded.attempt, decoded.envelope.hops), (1, 1, 0));
        assert!(decoded.envelope.expires_at_ms > ingress().rules.now_ms);
    }

    #[test]
    fn a_scheduled_event_expires_after_it_was_due() {
        let event = [
            ("cloudEvents_specversion", "1.0"),
            ("cloudEvents_id", "9"),
            ("cloudEvents_source", "/desk"),
            ("cloudEvents_type", "x"),
            ("cloudEvents_deliverat", "2023-11-14T22:13:50Z"),
        ];
        let decoded = decode(&properties("text/plain", &event), Vec::new(), ingress()).unwrap();
        let due_at_ms = 1_700_000_030_000;
        assert_eq!(decoded.sender, Sender::OtherProgram { due_at_ms: Some(due_at_ms) });
        assert_eq!(decoded.envelope.expires_at_ms, due_at_ms + ingress().expiry_ms);
        assert_eq!(decoded.envelope.event.attributes, []);
    }

    #[test]
    fn unstorable_message_is_unreadable_and_can_be_dead_lettered() {
        let long = "s".repeat(100_000);
        for (key, value) in
            [("cloudEvents_zone", "a\0b"), ("cloudEvents_subject", &long), (CORRELATION, &long)]
        {
            let event = [
                (CORRELATION, "9"),
                ("cloudEvents_id", "9"),
                ("cloudEvents_source", "/desk"),
                ("cloudEvents_type", "x"),
                (key, value),
            ];
            assert!(
                matches!(
                    decode(&properties("text/plain", &event), Vec::new(), ingress()),
                    Err(Unreadable::Unstorable(_))
                ),
                "{key}"
            );
        }
        assert_eq!(stand_in(&properties("a\0b", &[]), b"", ingress()).validate(), None);
    }

    #[test]
    fn what_cannot_be_read_says_why_and_keeps_its_key() {
        let nothing = properties(
            "application/json",
            &[("cloudEvents_id", "1"), ("cloudEvents_source", "/x"), (CORRELATION, "1")],
        );
        assert!(matches!(
            decode(&nothing, Vec::new(), ingress()),
            Err(Unreadable::Missing("type"))
        ));
        let garbage = properties(STRUCTURED, &[]);
        assert!(matches!(decode(&garbage, b"{".to_vec(), ingress()), Err(Unreadable::Json(_))));
        assert_eq!(
            stand_in(&garbage, b"{", ingress()).event.id,
            stand_in(&garbage, b"{", ingress()).event.id
        );
        assert_ne!(
            stand_in(&garbage, b"{", ingress()).event.id,
            stand_in(&nothing, b"{", ingress()).event.id
        );
    }
}
