//! What hosts send and read.

use bytes::Bytes;

use super::*;
use crate::broker::rabbit::origin::Origin;
use crate::domain::encryption::Encryption;
use crate::store::{Direct, MessageKey};

const PLACE: Destination<'_> = Destination { namespace: "orders", stage: "x" };

fn signer() -> Signer {
    Signer::new(&MessageKey { id: "0a1b2c3d".into(), secret: [7; 32], created_at_ms: 0 })
}

fn sent(message: &Outgoing) -> BasicProperties {
    encode(
        message,
        &message.envelope.event.data,
        Signing { signer: &signer(), namespace: PLACE.namespace },
    )
}

fn read(properties: &BasicProperties, body: Vec<u8>) -> Result<Decoded, Unreadable> {
    let encryption = Encryption::default();
    let trust = Trust { signers: &[signer()], place: PLACE, encryption: &encryption };
    decode(properties, body, ingress(), trust)
}

/// A message with these headers, as a host signs it.
fn of_host(content_type: &str, headers: &[(&str, &str)]) -> BasicProperties {
    let properties = properties(content_type, headers);
    let mut headers = properties.headers().clone().unwrap_or_default();
    signer().sign(&mut headers, PLACE, Contents { content_type, body: &[] });
    properties.with_headers(headers)
}

fn stand_in_id(properties: &BasicProperties, body: &[u8]) -> String {
    let origin = Origin { exchange: "orders.events", routing_key: "x" };
    stand_in(properties, body, origin, ingress(), &Unreadable::Batch).event.id
}

fn ingress() -> Ingress<'static> {
    Ingress {
        rules: Rules::for_tests(1_700_000_000_123),
        body_max_bytes: 1_000,
        expiry_ms: 500_000,
    }
}

fn envelope() -> Envelope {
    Envelope {
        data_key: None,
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
    let decoded = read(&sent(&message), message.envelope.event.data.to_vec()).unwrap();
    assert_eq!((&*decoded.envelope, decoded.round, decoded.attempt), (&envelope(), 2, 7));
}

#[test]
fn what_cannot_be_sent_is_named_by_a_small_message() {
    let mut large = envelope();
    large.event.attributes = vec![("a".into(), "x".repeat(200_000))];
    let direct = Some(Direct { stage: "x".into(), round: 2, attempt: 7 });
    let message = Outgoing { envelope: Arc::new(large), direct, mandatory: true };
    assert!(header_bytes(&sent(&message)) > 200_000);
    let properties = encode_unsendable(
        &message,
        "it is too large",
        Signing { signer: &signer(), namespace: "orders" },
    );
    assert!(header_bytes(&properties) < 2_000);
    let Err(Unreadable::Unsendable { decoded, why }) = read(&properties, Vec::new()) else {
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
    let binary = read(&properties("text/plain", &headers), b"hello".to_vec()).unwrap();
    let body = br#"{"specversion":"1.0","id":"9","source":"/desk","type":"order.flagged","subject":"7","datacontenttype":"text/plain","data":"hello"}"#;
    let structured =
        read(&properties("application/cloudevents+json; charset=utf-8", &[]), body.to_vec())
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
    let decoded = read(&sent(&message), inner.to_vec()).unwrap();
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
        read(&of_host("text/plain", &event), Vec::new())
    };
    for (key, value) in [(ROUND, "0"), (ATTEMPT, "0"), (ATTEMPT, "4294967297"), (ROUND, "one")] {
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
    let decoded = read(&properties("text/plain", &event), Vec::new()).unwrap();
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
    let decoded = read(&properties("text/plain", &event), Vec::new()).unwrap();
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
                read(&of_host("text/plain", &event), Vec::new()),
                Err(Unreadable::Unstorable(_))
            ),
            "{key}"
        );
    }
    let origin = Origin { exchange: "a\0b", routing_key: "" };
    let unreadable = properties("a\0b", &[]);
    let substitute = stand_in(&unreadable, b"", origin, ingress(), &Unreadable::Batch);
    assert_eq!(substitute.validate(), None);
}

#[test]
fn what_cannot_be_read_says_why_and_keeps_its_key() {
    let nothing = of_host(
        "application/json",
        &[("cloudEvents_id", "1"), ("cloudEvents_source", "/x"), (CORRELATION, "1")],
    );
    assert!(matches!(read(&nothing, Vec::new()), Err(Unreadable::Missing("type"))));
    let garbage = properties(STRUCTURED, &[]);
    assert!(matches!(read(&garbage, b"{".to_vec()), Err(Unreadable::Json(_))));
    assert_eq!(stand_in_id(&garbage, b"{"), stand_in_id(&garbage, b"{"));
    assert_ne!(stand_in_id(&garbage, b"{"), stand_in_id(&nothing, b"{"));
}

#[test]
fn a_claim_without_a_signature_is_kept_beside_the_reason() {
    let event = [
        (CORRELATION, "9"),
        ("cloudEvents_id", "9"),
        ("cloudEvents_source", "/orders/api"),
        ("cloudEvents_type", "x"),
        (ATTEMPT, "3"),
    ];
    let Err(Unreadable::Forged { claimed: Some(claimed), why }) =
        read(&properties("text/plain", &event), Vec::new())
    else {
        panic!("it is taken for a host's");
    };
    assert!(why.contains("no signature"), "{why}");
    assert_eq!((claimed.envelope.event.id.as_str(), claimed.attempt), ("9", 3));
    // A signature alone is a claim as well, although it claims nothing that can be read.
    let event = [(SIGNATURE, "0a1b2c3d.AAAAAAAAAAAAAAAAAAAAAA"), ("cloudEvents_id", "9")];
    let forged = read(&properties("text/plain", &event), Vec::new());
    assert!(matches!(forged, Err(Unreadable::Forged { claimed: None, .. })), "{forged:?}");
}
