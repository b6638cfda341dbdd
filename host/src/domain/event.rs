//! Events and their envelopes: CloudEvents 1.0 attributes, and what the host adds to bound a chain
//! of events.
//!
//! Bounds: an envelope carries its hop count, so that a cycle ends, and its absolute expiry.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::encryption::DataKey;
use super::steps::count_json_read;
use super::subject::SubjectKey;

/// Event types that start with this are the host's own; stages may consume but never emit them.
pub const HOST_EVENT_PREFIX: &str = "postrider.";
/// Stands for a message of another program that cannot be read.
pub const UNREADABLE: &str = "postrider.unreadable";
/// A delivery was dead-lettered. The stage is an attribute.
pub const DEAD_LETTERED: &str = "postrider.dead-lettered";
/// The circuit breaker of a stage opened or closed on a host. Its subject is the stage.
pub const BREAKER_CHANGED: &str = "postrider.breaker-changed";
/// A new version of a stage trapped too often on a host and was rolled back. Its subject is the
/// stage.
pub const PLUGIN_ROLLED_BACK: &str = "postrider.plugin-rolled-back";
/// Stock arrived for a product. Its subject is the SKU.
pub const PRODUCT_STOCKED: &str = "product.stocked";

/// `CloudEvents` attributes that are fields of [`Event`]: an extension attribute of such a name
/// would overwrite them in a message.
const CONTEXT: [&str; 6] = ["id", "source", "type", "subject", "time", "specversion"];
/// Most bytes in all texts of an envelope: they become message headers, some of them twice, and
/// `RabbitMQ` accepts 128 KiB of headers.
const TEXTS_MAX_BYTES: usize = 32 << 10;
/// Longest id, source and correlation id: a Postgres index entry has at most 2,704 bytes.
const KEY_MAX_BYTES: usize = 1_000;
/// Longest AMQP short string.
const SHORT_MAX_BYTES: usize = 255;
/// The last instant that RFC 3339 can express.
pub(crate) const TIME_MAX_MS: u64 = 253_402_207_200_999;

/// A CloudEvents 1.0 event.
///
/// ```
/// use postrider::{Event, Failure};
///
/// fn body(event: &Event) -> Result<serde_json::Value, Failure> {
///     serde_json::from_slice(&event.data)
///         .map_err(|error| Failure::reject("invalid-body", format!("{}: {error}", event.subject)))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique per source.
    pub id: String,
    /// For example `order.created`.
    pub event_type: String,
    /// Its producer: a URI reference such as `/orders/stages/payment`.
    pub source: String,
    /// What it is about: the id of an order, a document or another subject.
    pub subject: String,
    /// When it happened, milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: Bytes,
    /// CloudEvents extension attributes.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    /// Reads the payload as JSON.
    ///
    /// ```
    /// use postrider::Event;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Shipped {
    ///     tracking: String,
    /// }
    ///
    /// fn tracking(event: &Event) -> Result<String, serde_json::Error> {
    ///     Ok(event.json::<Shipped>()?.tracking)
    /// }
    /// ```
    ///
    /// # Errors
    /// The payload is not JSON, or not such a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        count_json_read();
        serde_json::from_slice(&self.data)
    }
}

/// An event with its place in a chain of events.
///
/// ```
/// use postrider::{Settlement, SubjectKey};
///
/// /// Whether the delivery belongs to the subject.
/// fn belongs_to(settled: &Settlement, subject: &SubjectKey) -> bool {
///     settled.envelope.subject_key.as_ref() == Some(subject)
/// }
/// ```
#[derive(Debug, Clone, Eq)]
pub struct Envelope {
    /// The event itself.
    pub event: Event,
    /// The subject that this event belongs to; inherited from its cause.
    pub subject_key: Option<SubjectKey>,
    /// Hash of the customer of that subject, among whose customers each stage shares its capacity; 0:
    /// none is known.
    pub customer_hash: u64,
    /// Id of the first event of the chain.
    pub correlation_id: String,
    /// The event that caused this one; none for the first of a chain.
    pub cause: Option<EventKey>,
    /// Stages between the first event of the chain and this one.
    pub hops: u32,
    /// From this time on the host dead-letters it instead of running a stage; milliseconds since
    /// 1970-01-01 UTC.
    pub expires_at_ms: u64,
    /// What the data of this event and of those that follow from it are sealed with, if they are;
    /// inherited from its cause.
    pub(crate) data_key: Option<Arc<DataKey>>,
}

/// What an event is sealed with is no part of it.
impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        let Self { event, subject_key, customer_hash, correlation_id, cause, .. } = self;
        event == &other.event
            && subject_key == &other.subject_key
            && customer_hash == &other.customer_hash
            && correlation_id == &other.correlation_id
            && cause == &other.cause
            && self.hops == other.hops
            && self.expires_at_ms == other.expires_at_ms
    }
}

impl Envelope {
    /// The envelope of the first event of a chain.
    pub fn first(event: Event, subject_key: Option<SubjectKey>, expires_at_ms: u64) -> Self {
        Self {
            correlation_id: event.id.clone(),
            subject_key,
            customer_hash: 0,
            cause: None,
            hops: 0,
            expires_at_ms,
            data_key: None,
            event,
        }
    }

    /// The envelope of an event that `cause` led to: same subject and chain, one hop further.
    pub fn caused_by(cause: &Self, event: Event, expires_at_ms: u64) -> Self {
        Self { hops: cause.hops.saturating_add(1), ..Self::replacing(cause, event, expires_at_ms) }
    }

    /// The envelope of an event that replaces `old`: same subject, same place in the chain.
    pub fn replacing(old: &Self, event: Event, expires_at_ms: u64) -> Self {
        Self {
            subject_key: old.subject_key.clone(),
            customer_hash: old.customer_hash,
            correlation_id: old.correlation_id.clone(),
            cause: Some(old.key()),
            hops: old.hops,
            expires_at_ms,
            data_key: old.data_key.clone(),
            event,
        }
    }

    /// Returns why a store or a broker cannot accept it, if so: it would block everything queued
    /// behind it.
    pub fn validate(&self) -> Option<String> {
        let Self { event, correlation_id, cause, expires_at_ms, .. } = self;
        let mut texts = vec![
            &event.id,
            &event.source,
            &event.event_type,
            &event.subject,
            &event.content_type,
            correlation_id,
        ];
        texts.extend(cause.iter().flat_map(|cause| [&cause.source, &cause.id]));
        texts.extend(event.attributes.iter().flat_map(|(name, value)| [name, value]));
        if texts[..3].iter().any(|text| text.is_empty()) {
            return Some("no id, no source or no type".to_owned());
        }
        if texts.iter().any(|text| text.contains('\0')) {
            return Some("a NUL character in its subject or attributes".to_owned());
        }
        if let Some((name, _)) =
            event.attributes.iter().find(|(name, _)| CONTEXT.contains(&name.as_str()))
        {
            return Some(format!("an extension attribute with the reserved name `{name}`"));
        }
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if bytes > TEXTS_MAX_BYTES {
            return Some(format!(
                "{bytes} bytes in its subject and attributes; the limit is {TEXTS_MAX_BYTES}"
            ));
        }
        let keys = [&event.id, &event.source, correlation_id].into_iter();
        if let Some(key) = keys.map(String::len).find(|length| *length > KEY_MAX_BYTES) {
            return Some(format!(
                "an id, a source or a correlation id of {key} bytes; the limit is {KEY_MAX_BYTES}"
            ));
        }
        let shorts = [&event.event_type, &event.content_type];
        if let Some(long) =
            shorts.iter().map(|text| text.len()).find(|length| *length > SHORT_MAX_BYTES)
        {
            return Some(format!(
                "a type or a content type of {long} bytes; the limit is {SHORT_MAX_BYTES}"
            ));
        }
        (event.time_ms.max(*expires_at_ms) > TIME_MAX_MS)
            .then(|| "a time after the year 9999".to_owned())
    }

    /// The bytes of its data and texts.
    pub fn bytes(&self) -> u64 {
        let Self { event, subject_key, correlation_id, cause, .. } = self;
        let Event { id, event_type, source, subject, content_type, data, attributes, .. } = event;
        let texts = [id, event_type, source, subject, content_type, correlation_id];
        let attributes = attributes.iter().map(|(name, value)| name.len() + value.len());
        let cause = cause.iter().flat_map(|key| [&key.source, &key.id]);
        let texts = texts.into_iter().chain(cause).map(String::len);
        let subject_key = subject_key.as_ref().map(|key| key.len());
        let texts = texts.chain(subject_key);
        (data.len() + texts.sum::<usize>() + attributes.sum::<usize>()) as u64
    }

    /// The key that identifies this event.
    pub fn key(&self) -> EventKey {
        EventKey { source: self.event.source.clone(), id: self.event.id.clone() }
    }
}

/// Identifies an event: ids are unique per source only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventKey {
    /// The event's source.
    pub source: String,
    /// The event's id.
    pub id: String,
}

/// Identifies a delivery: one event at one stage.
///
/// ```
/// use postrider::Settlement;
///
/// fn log(settled: &Settlement) {
///     let key = &settled.delivery;
///     println!("{}: event {} of {}", key.stage, key.event.id, key.event.source);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    /// The stage.
    pub stage: Arc<str>,
    /// The event.
    pub event: EventKey,
}

/// An event of the log.
#[derive(Debug, Clone)]
pub struct LoggedEvent {
    /// Position in the log, growing.
    pub seq: i64,
    /// The event.
    pub envelope: Envelope,
    /// The stage that produced it.
    pub stage: Option<String>,
    /// Digest of the plugin that produced it.
    pub digest: Option<String>,
    /// Stages it was routed to.
    pub routed_to: Vec<String>,
    /// When it entered the log, milliseconds since 1970-01-01 UTC.
    pub logged_at_ms: u64,
    /// When it is due, if it was scheduled, milliseconds since 1970-01-01 UTC.
    pub due_at_ms: Option<u64>,
}

/// The same for every attempt and replay of this event at this stage, different for another event.
pub fn idempotency_key(delivery: &DeliveryKey) -> String {
    hash_id(&["idempotency", &delivery.stage, &delivery.event.source, &delivery.event.id])
}

/// The id of the `position`-th event that a stage emits for an event that was created at `cause_ms`: a
/// retry repeats it.
pub fn emitted_id(delivery: &DeliveryKey, cause_ms: u64, position: usize) -> String {
    following_id("emitted", delivery, cause_ms, &position.to_string())
}

/// The id of the `postrider.dead-lettered` event of one round of the delivery of an event that was
/// created at `cause_ms`.
pub fn dead_letter_event_id(delivery: &DeliveryKey, cause_ms: u64, round: u32) -> String {
    following_id("dead-letter", delivery, cause_ms, &round.to_string())
}

/// An id that grows with the time of its cause, so that the stores' indexes grow at their ends: 48 bits
/// of the time in milliseconds, then a hash that tells it from every other one.
fn following_id(what: &str, delivery: &DeliveryKey, cause_ms: u64, number: &str) -> String {
    let DeliveryKey { stage, event: EventKey { source, id } } = delivery;
    let mut bytes = [0; 22];
    let (time, hashed) = bytes.split_at_mut(6);
    time.copy_from_slice(&cause_ms.to_be_bytes()[2..]);
    hashed.copy_from_slice(&hash(&[what, stage, source, id, number]));
    hex(&bytes)
}

fn hash_id(parts: &[&str]) -> String {
    hex(&hash(parts))
}

/// 128 bits of SHA-256 over the length-prefixed parts.
pub(crate) fn hash(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let full: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|at| full[at])
}

/// Text that every store accepts: Postgres texts cannot contain NUL.
pub fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// At most `max_bytes` of a text, cut between characters.
pub fn shortened(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    let mut text = String::with_capacity(bytes.len() * 2);
    text.extend(bytes.iter().flat_map(digits));
    text
}

/// Whether an AMQP topic pattern (`*` is one word, `#` any number of words) matches an event type,
/// in at most quadratic time.
pub fn topic_matches(pattern: &str, event_type: &str) -> bool {
    if !pattern.contains(['*', '#']) {
        return pattern == event_type;
    }
    let (pattern, words): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), event_type.split('.').collect());
    let (mut at, mut word) = (0, 0);
    // The part after the last `#`, and the first word that `#` does not cover: it covers as few as
    // possible.
    let mut last: Option<(usize, usize)> = None;
    while word < words.len() {
        match pattern.get(at) {
            Some(&"#") => {
                at += 1;
                last = Some((at, word));
            }
            Some(&literal) if literal == "*" || literal == words[word] => {
                (at, word) = (at + 1, word + 1);
            }
            _ => {
                let Some((behind, from)) = last else { return false };
                (at, word) = (behind, from + 1);
                last = Some((behind, word));
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == "#")
}

/// Whether every event type that the topic pattern `narrow` matches also matches `wide`.
pub fn topic_covers(wide: &str, narrow: &str) -> bool {
    let words: Vec<&str> = narrow.split('.').collect();
    // `covered[n]`: the part of `wide` that was read covers the first `n` words of `narrow`.
    let mut covered = vec![false; words.len() + 1];
    covered[0] = true;
    for part in wide.split('.') {
        let mut next = vec![false; words.len() + 1];
        for at in 0..=words.len() {
            next[at] = if part == "#" {
                covered[at] || (at > 0 && next[at - 1])
            } else {
                let same = |word: &str| word == part || (part == "*" && word != "#");
                at > 0 && covered[at - 1] && same(words[at - 1])
            };
        }
        covered = next;
    }
    covered[words.len()]
}

/// Longest event type or topic pattern: it is an AMQP routing key.
const TOPIC_MAX_BYTES: usize = 200;

/// Why a text is neither an event type nor a topic pattern; none if it is one.
pub fn topic_problem(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("is empty");
    }
    if text.len() > TOPIC_MAX_BYTES {
        return Some("is longer than 200 bytes");
    }
    if text.split('.').any(str::is_empty) {
        return Some("has an empty word: it begins or ends with a dot, or has two in a row");
    }
    let invalid = |one: char| one.is_whitespace() || one.is_control();
    text.contains(invalid).then_some("contains white space or a control character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_narrower_ones() {
        for (wide, narrow, expected) in [
            ("order.created", "order.created", true),
            ("order.created", "order.*", false),
            ("order.*", "order.created", true),
            ("order.*", "order.*", true),
            ("order.*", "order.#", false),
            ("order.#", "order.*.late", true),
            ("order.#", "order", true),
            ("#", "order.#", true),
            ("*.#", "#", false),
            ("#.late", "order.#.late", true),
            ("#.#", "#", true),
        ] {
            assert_eq!(topic_covers(wide, narrow), expected, "{wide} over {narrow}");
        }
    }

    #[test]
    fn invalid_topics_are_explained() {
        for valid in ["order.created", "#", "order.*", "a"] {
            assert_eq!(topic_problem(valid), None, "{valid}");
        }
        for (invalid, why) in [
            ("", "empty"),
            ("order..created", "two in a row"),
            (".created", "dot"),
            ("order.", "dot"),
            ("order created", "white space"),
            ("order\0", "control"),
        ] {
            assert!(topic_problem(invalid).is_some_and(|text| text.contains(why)), "{invalid}");
        }
        assert!(topic_problem(&"a".repeat(201)).is_some());
    }

    #[test]
    fn topic_patterns_follow_amqp() {
        for (pattern, event_type, expected) in [
            ("order.created", "order.created", true),
            ("order.created", "order.created.v2", false),
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("payment.#", "payment", true),
            ("payment.#", "payment.refunded.late", true),
            ("#", "anything.at.all", true),
            ("*.created", "order.created", true),
            ("#.created", "a.b.created", true),
            ("*", "order.created", false),
            ("#.b.#.c", "a.b.b.c", true),
            ("#.b.*.c", "a.b.b.c", true),
            ("#.b.c", "a.b.b", false),
            ("#.#", "a", true),
        ] {
            assert_eq!(topic_matches(pattern, event_type), expected, "{pattern} on {event_type}");
        }
    }

    #[test]
    fn topic_matching_takes_quadratic_time_at_most() {
        // Backtracking would take longer than the age of the universe.
        let (pattern, event_type) = (format!("{}x", "#.".repeat(99)), vec!["a"; 100].join("."));
        assert!(!topic_matches(&pattern, &event_type));
    }

    #[test]
    fn envelopes_that_a_store_or_broker_cannot_accept_are_invalid() {
        type Change = fn(&mut Envelope);
        let valid = || {
            let event = Event {
                id: "1".into(),
                event_type: "order.created".into(),
                source: "/s".into(),
                subject: "7".into(),
                time_ms: 1,
                content_type: "application/json".into(),
                data: Bytes::new(),
                attributes: vec![("zone".into(), "z".repeat(30_000))],
            };
            Envelope::first(event, Some(SubjectKey::new("order", "o")), TIME_MAX_MS)
        };
        assert_eq!(valid().validate(), None);
        let cases: [(&str, Change); 10] = [
            ("no id", |envelope| envelope.event.event_type.clear()),
            ("NUL", |envelope| envelope.event.attributes[0].1.push('\0')),
            ("NUL", |envelope| {
                envelope.cause = Some(EventKey { source: "\0".into(), id: "1".into() });
            }),
            ("the reserved name `type`", |envelope| {
                envelope.event.attributes.push(("type".into(), "order.cancelled".into()));
            }),
            ("bytes in its subject", |envelope| envelope.event.subject = "s".repeat(3_000)),
            ("an id, a source or", |envelope| envelope.event.id = "i".repeat(1_001)),
            ("a correlation id", |envelope| envelope.correlation_id = "c".repeat(1_001)),
            ("a content type", |envelope| envelope.event.content_type = "c".repeat(256)),
            ("a time", |envelope| envelope.expires_at_ms = u64::MAX),
            ("a time", |envelope| envelope.event.time_ms = TIME_MAX_MS + 1),
        ];
        for (expected, change) in cases {
            let mut envelope = valid();
            change(&mut envelope);
            assert!(
                envelope.validate().is_some_and(|why| why.contains(expected)),
                "{expected}: {:?}",
                envelope.validate()
            );
        }
    }

    fn key(stage: &str, id: &str) -> DeliveryKey {
        DeliveryKey { stage: stage.into(), event: EventKey { source: "/s".into(), id: id.into() } }
    }

    #[test]
    fn derived_ids_repeat_and_differ() {
        let (first, second) = (key("payment", "1"), key("payment", "2"));
        assert_eq!(emitted_id(&first, 7, 0), emitted_id(&first, 7, 0));
        assert_ne!(emitted_id(&first, 7, 0), emitted_id(&first, 7, 1));
        assert_ne!(emitted_id(&first, 7, 0), emitted_id(&second, 7, 0));
        assert_ne!(emitted_id(&first, 7, 0), emitted_id(&key("shipping", "1"), 7, 0));
        assert_ne!(emitted_id(&first, 7, 1), dead_letter_event_id(&first, 7, 1));
        assert_ne!(idempotency_key(&key("a", "bc")), idempotency_key(&key("ab", "c")));
    }

    #[test]
    fn ids_of_what_follows_grow_with_the_time_of_the_cause() {
        let id = |at_ms| emitted_id(&key("payment", "1"), at_ms, 0);
        let ids: Vec<String> =
            [0, 1, 1_700_000_000_000, 1_700_000_000_001].into_iter().map(id).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        // A producer may name any time.
        assert_eq!(id(u64::MAX).len(), ids[0].len());
    }
}
