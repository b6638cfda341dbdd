//! Envelopes as AMQP messages and back: CloudEvents 1.0 in binary mode (attributes in headers),
//! structured mode is read as well.
//!
//! The host's own headers carry what CloudEvents has no attribute for. A message with them claims to be
//! a host's, and is one only if its [`signature`](super::signature) says so. One without them comes from
//! another program ([`foreign`]) and starts a chain of its own. Pure: no connection is needed.

mod foreign;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod stand_in;
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::signature::{self, Contents, Destination, SIGNATURE, Signer};
use crate::broker::{ClaimedAttempt, Outgoing, Sender};
use crate::domain::body::BodyError;
use crate::domain::cloud_events::STRUCTURED;
use crate::domain::cloud_events::ingress::{IngestedEvent, Rules};
use crate::domain::encryption::{Encryption, Place};
use crate::domain::event::{Envelope, Event, EventKey, TIME_MAX_MS};
use crate::domain::subject::SubjectKey;
use crate::domain::timestamp;

pub(super) use self::stand_in::stand_in;
pub(super) use self::value::unsigned;

/// Prefix of CloudEvents attributes in headers; the colon form is read as well.
pub(super) const CLOUD_EVENTS: &str = "cloudEvents_";
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
pub(super) const ROUND: &str = "postrider-round";
const ATTEMPT: &str = "postrider-attempt";
/// What the body is sealed with, if it is, as it is stored with the subject.
const DATA_KEY: &str = "postrider-data-key";
/// Why the message stands for one that the broker cannot carry.
const UNSENDABLE: &str = "postrider-unsendable";

/// Highest round and attempt.
const COUNT_MAX: u32 = 1_000_000;

/// Persistent.
const DELIVERY_MODE: u8 = 2;

/// Who signs the messages of a host.
#[derive(Clone, Copy)]
pub(super) struct Signing<'a> {
    pub(super) signer: &'a Signer,
    pub(super) namespace: &'a str,
}

/// Properties of a message, signed; its payload is [`sealed_body`].
pub(super) fn encode(message: &Outgoing, body: &[u8], signing: Signing<'_>) -> BasicProperties {
    signed(message, headers_of(message), body, signing)
}

/// The event's data as they are sent.
pub(super) fn sealed_body(message: &Outgoing, encryption: &Encryption) -> Bytes {
    let Envelope { event, subject_key, data_key, .. } = &*message.envelope;
    let place = body_place(subject_key.as_deref().unwrap_or_default(), &event.id);
    encryption.seal_body(data_key.as_deref(), place, &event.data)
}

fn body_place<'a>(subject: &'a str, event_id: &'a str) -> Place<'a> {
    Place { column: "message.body", owner: subject, name: event_id }
}

/// The properties with these headers and their signature.
fn signed(
    message: &Outgoing,
    mut headers: FieldTable,
    body: &[u8],
    signing: Signing<'_>,
) -> BasicProperties {
    let content_type = ShortString::try_new(message.envelope.event.content_type.as_str()).ok();
    let contents = Contents {
        content_type: content_type.as_ref().map(ShortString::as_str).unwrap_or_default(),
        body,
    };
    let stage = message.direct.as_ref().map(|direct| &*direct.stage).unwrap_or_default();
    let place = Destination { namespace: signing.namespace, stage };
    signing.signer.sign(&mut headers, place, contents);
    let properties =
        BasicProperties::default().with_delivery_mode(DELIVERY_MODE).with_headers(headers);
    match content_type {
        Some(content_type) => properties.with_content_type(content_type),
        None => properties,
    }
}

fn headers_of(message: &Outgoing) -> FieldTable {
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
    if let Some(key) = &envelope.data_key {
        put(DATA_KEY, key.wrapped());
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
    headers
}

/// Properties of a message without a body, in place of one that the broker cannot carry: it names the
/// delivery, so that its stage dead-letters it.
pub(super) fn encode_unsendable(
    message: &Outgoing,
    why: &str,
    signing: Signing<'_>,
) -> BasicProperties {
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
    let message = Outgoing { envelope: Arc::new(envelope), ..message.clone() };
    let mut headers = headers_of(&message);
    headers.insert(UNSENDABLE.into(), AMQPValue::LongString(why.into()));
    signed(&message, headers, &[], signing)
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
    /// A host sent it to one stage; others are published by their type.
    pub(super) is_direct: bool,
}

impl Decoded {
    /// A message that an event stands for.
    pub(super) fn substitute(envelope: Envelope) -> Self {
        let sender = Sender::OtherProgram { due_at_ms: None };
        Self { envelope: Arc::new(envelope), round: 1, attempt: 1, sender, is_direct: false }
    }

    /// The attempt that it is, or claims to be.
    pub(super) fn attempt(self) -> ClaimedAttempt {
        let Self { envelope, round, attempt, .. } = self;
        ClaimedAttempt { envelope, round, attempt }
    }
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
    /// It claims to be a host's, and is not.
    #[error("a message that claims to be a host's is not: {why}")]
    Forged {
        /// What it claims, if that can be read.
        claimed: Option<Box<Decoded>>,
        why: String,
    },
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

/// What tells a host's message from one that only claims to be one.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    /// The keys of hosts.
    pub(super) signers: &'a [Signer],
    /// Where the message arrived.
    pub(super) place: Destination<'a>,
    /// Opens the bodies of hosts.
    pub(super) encryption: &'a Encryption,
}

/// Decodes a message of this program or of another one.
pub(super) fn decode(
    properties: &BasicProperties,
    body: Vec<u8>,
    ingress: Ingress<'_>,
    trust: Trust<'_>,
) -> Result<Decoded, Unreadable> {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let claims = [CORRELATION, SIGNATURE].iter().any(|name| headers.inner().contains_key(*name));
    if claims {
        return of_a_host(properties, body, ingress, trust);
    }
    let decoded = of_another_program(foreign::read(properties, body, ingress)?, ingress);
    storable(decoded)
}

/// A message that claims to be a host's.
fn of_a_host(
    properties: &BasicProperties,
    body: Vec<u8>,
    ingress: Ingress<'_>,
    trust: Trust<'_>,
) -> Result<Decoded, Unreadable> {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    let contents = Contents { content_type: content_type.unwrap_or_default(), body: &body };
    let problem = signature::problem(trust.signers, headers, trust.place, contents);
    let decoded = own(content_type, headers, body, (ingress, trust.encryption));
    if let Some(why) = problem {
        let claimed = decoded.and_then(storable).ok().map(Box::new);
        return Err(Unreadable::Forged { claimed, why });
    }
    let decoded = decoded?;
    if let Some(why) = header(headers, UNSENDABLE) {
        return Err(Unreadable::Unsendable { decoded: Box::new(decoded), why });
    }
    storable(decoded)
}

fn storable(decoded: Decoded) -> Result<Decoded, Unreadable> {
    match decoded.envelope.validate() {
        Some(why) => Err(Unreadable::Unstorable(why)),
        None => Ok(decoded),
    }
}

/// A message that a host published, exactly as it was.
fn own(
    content_type: Option<&str>,
    headers: &FieldTable,
    body: Vec<u8>,
    (ingress, encryption): (Ingress<'_>, &Encryption),
) -> Result<Decoded, Unreadable> {
    let Ingress { rules, expiry_ms, .. } = ingress;
    let correlation_id = header(headers, CORRELATION).ok_or(Unreadable::Missing(CORRELATION))?;
    let cause = header(headers, CAUSE_SOURCE)
        .zip(header(headers, CAUSE_ID))
        .map(|(source, id)| EventKey { source, id });
    let subject_key: Option<SubjectKey> =
        header(headers, SUBJECT).and_then(|text| text.parse().ok());
    let subject = subject_key.as_deref().unwrap_or_default();
    let key = encryption.key_of(subject, header(headers, DATA_KEY).as_deref());
    let mut event = own_event(headers, content_type, body, rules.now_ms)?;
    let place = body_place(subject, &event.id);
    if let Cow::Owned(data) = encryption.open(&key, place, &event.data) {
        event.data = data.into();
    }
    let envelope = Envelope {
        data_key: key.ok(),
        subject_key,
        customer_hash: number(headers, CUSTOMER)?.unwrap_or(0),
        correlation_id,
        cause,
        hops: number(headers, HOPS)?.map_or(0, |hops| u32::try_from(hops).unwrap_or(u32::MAX)),
        expires_at_ms: number(headers, EXPIRES_MS)?
            .unwrap_or(rules.now_ms + expiry_ms)
            .min(TIME_MAX_MS),
        event,
    };
    let (round, attempt) = (count(headers, ROUND)?, count(headers, ATTEMPT)?);
    let is_direct = headers.inner().contains_key(ROUND);
    Ok(Decoded { envelope: Arc::new(envelope), round, attempt, sender: Sender::Host, is_direct })
}

/// An event that starts a chain of its own.
fn of_another_program(ingested: IngestedEvent, ingress: Ingress<'_>) -> Decoded {
    let IngestedEvent { event, subject_key, correlation_id, due_at_ms } = ingested;
    let expires_at_ms = due_at_ms.unwrap_or(ingress.rules.now_ms) + ingress.expiry_ms;
    let mut envelope = Envelope::first(event, subject_key, expires_at_ms.min(TIME_MAX_MS));
    envelope.correlation_id = correlation_id.unwrap_or(envelope.correlation_id);
    let sender = Sender::OtherProgram { due_at_ms };
    Decoded { envelope: Arc::new(envelope), round: 1, attempt: 1, sender, is_direct: false }
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
mod tests;
