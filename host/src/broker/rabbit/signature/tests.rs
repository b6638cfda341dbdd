//! Each part of a message that a host reads is covered by its signature, and nothing else is.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::ShortString;

use super::*;
use crate::broker::Outgoing;
use crate::broker::rabbit::message::{Signing, encode};
use crate::domain::event::{Envelope, Event, EventKey};
use crate::store::Direct;

const PLACE: Destination<'_> = Destination { namespace: "orders", stage: "payment" };
const BODY: &[u8] = br#"{"order_id":"7"}"#;

fn key(id: &str, secret: u8) -> Signer {
    Signer::new(&MessageKey { id: id.to_owned(), secret: [secret; 32], created_at_ms: 0 })
}

fn newest() -> Signer {
    key("00000002", 2)
}

/// A message in which nothing is absent.
fn message() -> Outgoing {
    let event = Event {
        id: "order-7".into(),
        event_type: "order.created".into(),
        source: "/orders/api".into(),
        subject: "7".into(),
        time_ms: 1_700_000_000_007,
        content_type: "application/json".into(),
        data: BODY.into(),
        attributes: vec![("zone".into(), "ä".into()), ("empty".into(), String::new())],
    };
    let envelope = Envelope {
        data_key: None,
        event,
        subject_key: "order/7".parse().ok(),
        customer_hash: 42,
        correlation_id: "order-7".into(),
        cause: Some(EventKey { source: "/orders/api".into(), id: "before".into() }),
        hops: 3,
        expires_at_ms: 1_700_000_900_000,
    };
    let direct = Direct { stage: PLACE.stage.into(), round: 2, attempt: 7 };
    Outgoing { envelope: Arc::new(envelope), direct: Some(direct), mandatory: true }
}

fn signed(message: &Outgoing) -> BasicProperties {
    encode(
        message,
        &message.envelope.event.data,
        Signing { signer: &newest(), namespace: PLACE.namespace },
    )
}

fn headers(properties: &BasicProperties) -> FieldTable {
    properties.headers().clone().unwrap()
}

fn contents<'a>(properties: &'a BasicProperties, body: &'a [u8]) -> Contents<'a> {
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    Contents { content_type: content_type.unwrap_or_default(), body }
}

/// What is wrong with the headers of a message whose other parts are as they were sent.
fn problem_of(headers: &FieldTable) -> Option<String> {
    let properties = signed(&message());
    problem(&[newest(), key("00000001", 1)], headers, PLACE, contents(&properties, BODY))
}

/// The table without one header.
fn without(headers: &FieldTable, name: &str) -> FieldTable {
    let kept = headers.inner().iter().filter(|(key, _)| key.as_str() != name);
    let mut table = FieldTable::default();
    for (key, value) in kept {
        table.insert(key.clone(), value.clone());
    }
    table
}

fn with(headers: &FieldTable, name: &str, value: AMQPValue) -> FieldTable {
    let mut table = headers.clone();
    table.insert(name.into(), value);
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[test]
fn what_is_sent_is_authentic() {
    assert_eq!(problem_of(&headers(&signed(&message()))), None);
    // One for every stage that is bound says nothing about a stage.
    let published = Outgoing { direct: None, ..message() };
    let properties = signed(&published);
    for stage in ["payment", "shipping"] {
        let place = Destination { stage, ..PLACE };
        let contents = contents(&properties, BODY);
        assert_eq!(problem(&[newest()], &headers(&properties), place, contents), None);
    }
}

#[test]
fn every_header_that_a_host_sends_is_covered() {
    let sent = headers(&signed(&message()));
    let names: Vec<&str> = sent.inner().keys().map(ShortString::as_str).collect();
    let covered: Vec<&str> = names.iter().copied().filter(|name| is_covered(name)).collect();
    let expected = [
        "cloudEvents_empty",
        "cloudEvents_id",
        "cloudEvents_source",
        "cloudEvents_specversion",
        "cloudEvents_subject",
        "cloudEvents_time",
        "cloudEvents_type",
        "cloudEvents_zone",
        "postrider-attempt",
        "postrider-cause-id",
        "postrider-cause-source",
        "postrider-correlation",
        "postrider-customer",
        "postrider-expires-ms",
        "postrider-hops",
        "postrider-round",
        "postrider-subject",
    ];
    assert_eq!(covered, expected);
    for name in covered {
        let AMQPValue::LongString(was) = &sent.inner()[name] else { panic!("{name}") };
        let was = String::from_utf8_lossy(was.as_bytes()).into_owned();
        for (change, changed) in [
            ("longer", with(&sent, name, text(&format!("{was}1")))),
            ("other", with(&sent, name, text("1x"))),
            ("number", with(&sent, name, AMQPValue::LongLongInt(1))),
            ("bytes", with(&sent, name, AMQPValue::ByteArray(was.as_bytes().to_vec().into()))),
            ("absent", without(&sent, name)),
        ] {
            let why = problem_of(&changed);
            assert!(why.is_some_and(|why| why.contains("does not match")), "{name}: {change}");
        }
    }
}

#[test]
fn headers_that_a_host_would_read_cannot_be_added() {
    let sent = headers(&signed(&message()));
    for name in ["cloudEvents_more", "postrider-unsendable", "postrider-new", "cloudEvents_"] {
        assert!(problem_of(&with(&sent, name, text(""))).is_some(), "{name}");
    }
    // No host reads these.
    for name in ["x-death", "x-delivery-count", "traceparent", "cloudEvents:id", "other"] {
        assert_eq!(problem_of(&with(&sent, name, text("1"))), None, "{name}");
    }
    // Texts cannot move from one header to the next.
    let moved = with(&sent, "cloudEvents_empty", text("ä"));
    assert!(problem_of(&with(&moved, "cloudEvents_zone", text(""))).is_some());
}

#[test]
fn body_media_type_and_place_are_covered() {
    let properties = signed(&message());
    let headers = headers(&properties);
    let sent = contents(&properties, BODY);
    let signers = [newest()];
    assert_eq!(problem(&signers, &headers, PLACE, sent), None);
    for contents in [
        Contents { body: br#"{"order_id":"8"}"#, ..sent },
        Contents { body: b"", ..sent },
        Contents { content_type: "text/plain", ..sent },
        Contents { content_type: "", ..sent },
    ] {
        assert!(problem(&signers, &headers, PLACE, contents).is_some(), "{contents:?}");
    }
    for place in
        [Destination { namespace: "shop", ..PLACE }, Destination { stage: "shipping", ..PLACE }]
    {
        let why = problem(&signers, &headers, place, sent);
        assert!(why.is_some_and(|why| why.contains("another stage")), "{place:?}");
    }
}

#[test]
fn only_known_keys_are_accepted() {
    let properties = signed(&message());
    let headers = headers(&properties);
    let problem_with = |signers: &[Signer]| {
        problem(signers, &headers, PLACE, contents(&properties, BODY)).unwrap_or_default()
    };
    assert_eq!(problem_with(&[key("00000003", 3), newest()]), "", "older keys are accepted");
    assert!(problem_with(&[key("00000003", 3)]).contains("`00000002`, that the store does not"));
    assert!(problem_with(&[]).contains("does not have"));
    assert!(problem_with(&[key("00000002", 9)]).contains("does not match"), "another secret");
    assert_eq!(key_id(&properties), Some("00000002"));
}

#[test]
fn what_is_no_signature_is_refused() {
    let properties = signed(&message());
    let sent = headers(&properties);
    let AMQPValue::LongString(signature) = &sent.inner()[SIGNATURE] else { panic!("no text") };
    let signature = String::from_utf8_lossy(signature.as_bytes()).into_owned();
    let (id, tag) = signature.split_once('.').unwrap();
    for (forged, expected) in [
        (text(""), "not one that hosts make"),
        (text(id), "not one that hosts make"),
        (text(&format!("{id}.")), "not one that hosts make"),
        (text(&format!("{id}.{}", &tag[1..])), "not one that hosts make"),
        (text(&format!("{id}.{tag}AAAA")), "not one that hosts make"),
        (text(&format!("{id}.{}", "A".repeat(tag.len()))), "does not match"),
        (text(&format!("00000001.{tag}")), "does not match"),
        (text(&format!("ffffffff.{tag}")), "that the store does not have"),
        (text(&format!("{}.{tag}", "f".repeat(10_000))), "not one that hosts make"),
        (text(&format!("00 00 02.{tag}")), "not one that hosts make"),
        (AMQPValue::Void, "not one that hosts make"),
        (AMQPValue::ByteArray(signature.clone().into_bytes().into()), "not one that hosts make"),
    ] {
        let changed = with(&sent, SIGNATURE, forged);
        let why = problem_of(&changed).unwrap_or_default();
        assert!(why.contains(expected), "{changed:?}: {why}");
        let length = key_id(&BasicProperties::default().with_headers(changed)).map(str::len);
        assert!(length.is_none_or(|length| length == 8), "it would be looked up");
    }
    assert!(problem_of(&without(&sent, SIGNATURE)).is_some_and(|why| why.contains("no signature")));
    // A tag with one bit changed, wherever it is.
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    for bit in 0..tag.len() * 8 {
        let mut changed = tag.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let forged = text(&format!("{id}.{}", URL_SAFE_NO_PAD.encode(changed)));
        assert!(problem_of(&with(&sent, SIGNATURE, forged)).is_some(), "bit {bit}");
    }
}

#[test]
fn a_signature_is_short() {
    let headers = headers(&signed(&message()));
    let AMQPValue::LongString(signature) = &headers.inner()[SIGNATURE] else { panic!("no text") };
    // A length and a type stand before each of them.
    assert_eq!(1 + SIGNATURE.len() + 1 + 4 + signature.as_bytes().len(), 56);
}
