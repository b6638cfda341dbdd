//! The target `message`: any headers and any body as a message from the broker.
//!
//! A message is decoded or becomes a dead letter. A decoded message can be decided on, stored, and
//! sent again unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};

use super::{
    ATTEMPT, CAUSE_ID, CAUSE_SOURCE, CLOUD_EVENTS, CLOUD_EVENTS_COLON, CORRELATION, Contents,
    Destination, EXPIRES_MS, HOPS, Ingress, ROUND, STRUCTURED, SUBJECT, Signer, Signing, Trust,
    decode, encode, stand_in,
};
use crate::broker::Outgoing;
use crate::broker::rabbit::origin::Origin;
use crate::domain::cloud_events::ingress::Rules;
use crate::domain::encryption::Encryption;
use crate::domain::event::{Envelope, Event};
use crate::internals::fuzz::{
    ReceivedMessage, Stored, any_bytes, any_list, any_stage, any_text, decide_and_store, is_fit,
};
use crate::store::{Direct, MessageKey};

const NAMESPACE: &str = "orders";
const STAGE: &str = "x";

fn signer() -> Signer {
    Signer::new(&MessageKey { id: "0a1b2c3d".into(), secret: [7; 32], created_at_ms: 0 })
}

/// What claims to be a host's is signed, so that it is read further than its signature.
fn signed(properties: BasicProperties, body: &[u8]) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    if !headers.contains_key(CORRELATION) {
        return properties;
    }
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    let contents = Contents { content_type: content_type.unwrap_or_default(), body };
    signer().sign(&mut headers, Destination { namespace: NAMESPACE, stage: STAGE }, contents);
    properties.with_headers(headers)
}

fn ingress() -> Ingress<'static> {
    Ingress {
        rules: Rules::for_tests(1_700_000_000_123),
        body_max_bytes: 1_000,
        expiry_ms: 500_000,
    }
}

/// Decodes generated messages.
pub struct Message {
    stored: Stored,
    number: u64,
}

impl Message {
    /// Starts with an empty store.
    pub fn new() -> Self {
        Self { stored: Stored::new(), number: 0 }
    }

    /// Runs one input.
    pub fn run(&mut self, input: &[u8]) {
        self.number += 1;
        // An input with too few bytes ends early.
        let _ = self.arrive(&mut Unstructured::new(input));
    }

    fn arrive(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (properties, body) = message(u)?;
        let properties = signed(properties, &body);
        let place = Destination { namespace: NAMESPACE, stage: STAGE };
        let trust = Trust { signers: &[signer()], place, encryption: &Encryption::default() };
        let decoded = match decode(&properties, body.clone(), ingress(), trust) {
            Ok(decoded) => decoded,
            Err(unreadable) => {
                assert!(!unreadable.to_string().is_empty());
                let origin = Origin { exchange: "orders.events", routing_key: STAGE };
                is_fit(&stand_in(&properties, &body, origin, ingress(), &unreadable));
                return Ok(());
            }
        };
        let (envelope, round, attempt) = (decoded.envelope, decoded.round, decoded.attempt);
        let event = &envelope.event;
        assert!(!event.id.is_empty() && !event.event_type.is_empty() && !event.source.is_empty());
        is_fit(&envelope);
        arrives_as_sent(
            Arc::clone(&envelope),
            Some(Direct { stage: STAGE.into(), round, attempt }),
        );
        // A later round starts in a store that has the event, which this one has not.
        if round != 1 {
            return Ok(());
        }
        let event = Event { id: self.number.to_string(), ..event.clone() };
        let envelope = Arc::new(Envelope { event, ..Envelope::clone(&envelope) });
        decide_and_store(
            u,
            &mut self.stored,
            &any_stage(),
            ReceivedMessage { envelope, round, attempt },
            None,
        )
    }
}

/// Asserts that a published message is decoded to the same envelope.
pub(crate) fn arrives_as_sent(envelope: Arc<Envelope>, direct: Option<Direct>) {
    let (round, attempt) = direct.as_ref().map_or((1, 1), |direct| (direct.round, direct.attempt));
    let message = Outgoing { envelope, direct, mandatory: false };
    let body = message.envelope.event.data.to_vec();
    let stage = message.direct.as_ref().map_or(STAGE, |direct| &*direct.stage);
    let place = Destination { namespace: NAMESPACE, stage };
    let trust = Trust { signers: &[signer()], place, encryption: &Encryption::default() };
    let properties = encode(
        &message,
        &message.envelope.event.data,
        Signing { signer: &signer(), namespace: NAMESPACE },
    );
    let decoded =
        decode(&properties, body, ingress(), trust).expect("a sent message can be decoded");
    assert_eq!((decoded.round, decoded.attempt), (round, attempt));
    assert_eq!(normal(&decoded.envelope), normal(&message.envelope));
}

/// As headers carry attributes: unordered, with one value each and names of limited length.
fn normal(envelope: &Envelope) -> Envelope {
    let named: BTreeMap<_, _> =
        envelope.event.attributes.iter().filter(|(name, _)| name.len() <= 64).cloned().collect();
    Envelope {
        event: Event { attributes: named.into_iter().collect(), ..envelope.event.clone() },
        ..envelope.clone()
    }
}

fn message(u: &mut Unstructured<'_>) -> Result<(BasicProperties, Vec<u8>)> {
    let mut table = FieldTable::default();
    if u.ratio(3, 4)? {
        table.insert("cloudEvents_specversion".into(), AMQPValue::LongString("1.0".into()));
        for name in ["id", "source", "type"] {
            table.insert(
                format!("{CLOUD_EVENTS}{name}").as_str().into(),
                AMQPValue::LongString(any_text(u)?.as_str().into()),
            );
        }
    }
    for _ in 0..u.int_in_range(0..=8)? {
        table.insert(name(u)?, value(u, 0)?);
    }
    let mut properties = BasicProperties::default().with_headers(table);
    let structured = u.ratio(1, 4)?;
    if structured || u.arbitrary()? {
        let kind = if structured { format!("{STRUCTURED}; charset=utf-8") } else { any_text(u)? };
        if let Ok(kind) = ShortString::try_new(kind.as_str()) {
            properties = properties.with_content_type(kind);
        }
    }
    let body = if structured && u.ratio(7, 8)? {
        json_event(u)?.to_string().into_bytes()
    } else {
        any_bytes(u)?
    };
    Ok((properties, body))
}

/// Usually the name of a known header.
fn name(u: &mut Unstructured<'_>) -> Result<ShortString> {
    let own = [
        SUBJECT,
        CORRELATION,
        CAUSE_SOURCE,
        CAUSE_ID,
        HOPS,
        EXPIRES_MS,
        ROUND,
        ATTEMPT,
        "traceparent",
        "tracestate",
    ];
    let name = match u.int_in_range(0..=3)? {
        0 => format!("{CLOUD_EVENTS}{}", any_text(u)?),
        1 => format!("{CLOUD_EVENTS_COLON}{}", any_text(u)?),
        _ => (*u.choose(&own)?).to_owned(),
    };
    Ok(ShortString::try_new(name.as_str()).unwrap_or_default())
}

fn value(u: &mut Unstructured<'_>, depth: u8) -> Result<AMQPValue> {
    Ok(match u.int_in_range(0..=if depth < 3 { 16 } else { 14 })? {
        0..=2 => AMQPValue::LongString(any_text(u)?.as_str().into()),
        3 => AMQPValue::LongString(u.arbitrary::<u64>()?.to_string().as_str().into()),
        4 => AMQPValue::LongString(u.arbitrary::<Vec<u8>>()?.into()),
        5 => {
            AMQPValue::ShortString(ShortString::try_new(any_text(u)?.as_str()).unwrap_or_default())
        }
        6 => AMQPValue::Boolean(u.arbitrary()?),
        7 => AMQPValue::LongInt(u.arbitrary()?),
        8 => AMQPValue::LongLongInt(u.arbitrary()?),
        9 => AMQPValue::ShortInt(u.arbitrary()?),
        10 => AMQPValue::Double(u.arbitrary()?),
        11 => AMQPValue::Timestamp(u.arbitrary()?),
        12 => AMQPValue::ByteArray(ByteArray::from(u.arbitrary::<Vec<u8>>()?)),
        13 => {
            AMQPValue::DecimalValue(DecimalValue { scale: u.arbitrary()?, value: u.arbitrary()? })
        }
        14 => AMQPValue::Void,
        15 => AMQPValue::FieldArray(FieldArray::from(any_list(u, |u| value(u, depth + 1))?)),
        _ => {
            let mut inner = FieldTable::default();
            for value in any_list(u, |u| value(u, depth + 1))? {
                inner.insert(name(u)?, value);
            }
            AMQPValue::FieldTable(inner)
        }
    })
}

/// Roughly a `CloudEvent` in JSON.
fn json_event(u: &mut Unstructured<'_>) -> Result<serde_json::Value> {
    let mut event = serde_json::Map::new();
    if u.ratio(7, 8)? {
        for name in ["id", "source", "type"] {
            event.insert(name.to_owned(), any_text(u)?.into());
        }
    }
    for _ in 0..u.int_in_range(0..=6)? {
        let known =
            ["subject", "time", "datacontenttype", "data", "data_base64", "specversion", "id"];
        let name = if u.ratio(3, 4)? { (*u.choose(&known)?).to_owned() } else { any_text(u)? };
        event.insert(name, json(u, 0)?);
    }
    Ok(event.into())
}

fn json(u: &mut Unstructured<'_>, depth: u8) -> Result<serde_json::Value> {
    Ok(match u.int_in_range(0..=if depth < 3 { 6 } else { 4 })? {
        0 | 1 => any_text(u)?.into(),
        2 => u.arbitrary::<i64>()?.into(),
        3 => u.arbitrary::<f64>()?.into(),
        4 => serde_json::Value::Null,
        5 => any_list(u, |u| json(u, depth + 1))?.into(),
        _ => any_list(u, |u| Ok((any_text(u)?, json(u, depth + 1)?)))?
            .into_iter()
            .collect::<serde_json::Map<_, _>>()
            .into(),
    })
}
