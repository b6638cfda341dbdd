//! What the host accepts as an event of another program, over HTTP, AMQP and in imports: one set of
//! rules for every mode of CloudEvents. Pure; reports all problems together.
//!
//! Bounds: [`BATCH_MAX`] events in a batch, the lengths of [`cloud_events::check`], and a schedule
//! within the operator's horizon.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::body::{self, BodyError};
use crate::domain::cloud_events::allow_list::AllowList;
use crate::domain::cloud_events::{
    self, BATCH, Document, HOST, HOST_CORRELATION, HOST_SUBJECT, STRUCTURED,
};
use crate::domain::event::{Envelope, Event, HOST_EVENT_PREFIX};
use crate::domain::field_error::{FieldError, pointer};
use crate::domain::json;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::{ResolveError, SubjectKinds};
use crate::domain::timestamp;

/// Most events in one batch.
pub const BATCH_MAX: usize = 1_000;
/// The extension attribute that schedules an event.
const DELIVER_AT: &str = "deliverat";
/// Attributes that an event must have.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// Media types that start with this are event formats.
const FORMATS: &str = "application/cloudevents";

/// The operator's limits on incoming events, and the host's names.
#[derive(Debug, Clone)]
pub struct IngressSettings {
    /// The kinds of subjects that events may be about.
    pub kinds: Arc<SubjectKinds>,
    /// First part of the host's own sources.
    pub namespace: String,
    /// Longest time that an event may be scheduled ahead.
    pub schedule_max_ms: u64,
    /// Largest body, after it is decompressed.
    pub body_max_bytes: usize,
    /// Source of an event that names none.
    pub source: String,
    /// What other programs may send.
    pub allow: AllowList,
}

impl IngressSettings {
    /// The rules at a time.
    pub fn rules(&self, now_ms: u64) -> Rules<'_> {
        Rules {
            kinds: &self.kinds,
            now_ms,
            schedule_max_ms: self.schedule_max_ms,
            namespace: &self.namespace,
            source: &self.source,
            allow: &self.allow,
            admission: Admission::Outsider,
        }
    }
}

/// Whose events are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Other programs' own events.
    Outsider,
    /// An operator imports an exported log: events of any source.
    Import,
}

/// Limits and defaults for the checks.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The kinds of subjects that events may be about.
    pub kinds: &'a SubjectKinds,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// Longest time that an event may be scheduled ahead.
    pub schedule_max_ms: u64,
    /// First part of the host's own sources.
    pub namespace: &'a str,
    /// Source of an event that names none.
    pub source: &'a str,
    /// What other programs may send.
    pub allow: &'a AllowList,
    /// Whose events are admitted.
    pub admission: Admission,
}

impl Rules<'_> {
    /// The same rules for an exported log.
    #[must_use]
    pub fn for_import(self) -> Self {
        Self { admission: Admission::Import, ..self }
    }

    /// Whether a source is the host's own: its API's, a stage's, or that of an event that the host
    /// made to stand for another one. Outsiders must not take the ids of such events.
    fn is_own(&self, source: &str) -> bool {
        let within = |source: &str, name: &str| {
            source.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let of_namespace =
            source.strip_prefix('/').and_then(|rest| rest.strip_prefix(self.namespace));
        source != self.source
            && (within(source, "/postrider")
                || of_namespace.is_some_and(|rest| within(rest, "/api") || within(rest, "/stages")))
    }

    /// What is wrong with an event, given the problems of parsing.
    fn check(&self, event: &Event) -> Vec<FieldError> {
        if self.admission == Admission::Import {
            // It was in a log before: only what no host can take is refused.
            let reserved = event.event_type.starts_with(HOST_EVENT_PREFIX);
            return reserved
                .then(|| FieldError::at("/type", "events of the host are not imported"))
                .into_iter()
                .collect();
        }
        let mut problems = cloud_events::check(event);
        if self.is_own(&event.source) {
            problems.push(FieldError::at(
                "/source",
                format!("`{}` is a source of the host itself: use one of your own", event.source),
            ));
        }
        // What has no valid type or source is not looked up.
        if problems.is_empty() {
            problems.extend(self.allow.problem(&event.event_type, &event.source));
        }
        problems
    }

    /// Rules of the namespace `orders`, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_tests(now_ms: u64) -> Rules<'static> {
        static SETTINGS: std::sync::LazyLock<IngressSettings> = std::sync::LazyLock::new(|| {
            let config = crate::config::Config::default();
            config.ingress(&config.kinds().expect("valid"))
        });
        Rules {
            kinds: &SETTINGS.kinds,
            allow: &SETTINGS.allow,
            now_ms,
            schedule_max_ms: 60_000,
            namespace: "orders",
            source: "/orders/events",
            admission: Admission::Outsider,
        }
    }
}

/// How a message carries events, by the media type of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The body is one event.
    Structured,
    /// The body is a list of events.
    Batch,
    /// The body is one or more events in another format than JSON.
    OtherFormat,
    /// The body is an event's data: its attributes are elsewhere.
    Binary,
}

impl Mode {
    /// The mode of a body with this media type.
    ///
    /// # Errors
    /// When the body is JSON in a charset that cannot be read.
    pub fn of(content_type: &str) -> Result<Self, BodyError> {
        check_text(content_type)?;
        Ok(match cloud_events::media_type(content_type).to_ascii_lowercase().as_str() {
            STRUCTURED => Self::Structured,
            BATCH => Self::Batch,
            other if other.starts_with(FORMATS) => Self::OtherFormat,
            _ => Self::Binary,
        })
    }
}

/// Refuses JSON in another charset than UTF-8. Other data is not read: it may have any charset.
pub fn check_text(content_type: &str) -> Result<(), BodyError> {
    if cloud_events::is_json(content_type) { body::check_charset(content_type) } else { Ok(()) }
}

/// The required attributes that are not among these.
pub fn missing(attributes: &BTreeMap<String, String>) -> Vec<&'static str> {
    REQUIRED.into_iter().filter(|name| !attributes.contains_key(*name)).collect()
}

/// An event that can be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestedEvent {
    /// The event.
    pub event: Event,
    /// The subject that it belongs to, if it names one.
    pub subject_key: Option<SubjectKey>,
    /// The first event of its chain, if it names one.
    pub correlation_id: Option<String>,
    /// When to deliver it; none: immediately.
    pub due_at_ms: Option<u64>,
}

/// One event, from JSON that passed [`json::check`](crate::domain::json::check).
pub fn structured(text: &str, rules: Rules<'_>) -> Result<IngestedEvent, Vec<FieldError>> {
    let Ok(document) = Document::parse(text) else {
        return Err(vec![FieldError::at("", "must be a JSON object: a CloudEvent")]);
    };
    let wrong_version = (document.fields.get("specversion") != Some(&Value::from("1.0")))
        .then(|| FieldError::at("/specversion", "must be \"1.0\""));
    let (event, more) = cloud_events::draft(document, rules.now_ms);
    ingested(event, wrong_version.into_iter().chain(more).collect(), rules)
}

/// Several events, from JSON that passed [`json::check`](crate::domain::json::check).
pub fn batch(text: &str, rules: Rules<'_>) -> Result<Vec<IngestedEvent>, Vec<FieldError>> {
    let documents = match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(documents) if documents.len() <= BATCH_MAX => documents,
        _ => {
            return Err(vec![FieldError::at(
                "",
                format!("must be a JSON list of at most {BATCH_MAX} CloudEvents"),
            )]);
        }
    };
    let mut problems = Vec::new();
    let mut events = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        match structured(document.get(), rules) {
            Ok(ingested) => events.push(ingested),
            Err(found) => problems.extend(
                found
                    .into_iter()
                    .map(|one| FieldError { pointer: format!("/{index}{}", one.pointer), ..one }),
            ),
        }
    }
    if problems.is_empty() { Ok(events) } else { Err(problems) }
}

/// One event in binary mode. One without an id or a source is given one.
pub fn binary(
    mut attributes: BTreeMap<String, String>,
    content_type: Option<&str>,
    mut data: Bytes,
    rules: Rules<'_>,
) -> Result<IngestedEvent, Vec<FieldError>> {
    let mut problems = Vec::new();
    if attributes.get("specversion").is_some_and(|version| version != "1.0") {
        problems.push(FieldError::at("/specversion", "must be \"1.0\""));
    }
    attributes.entry("id".to_owned()).or_insert_with(|| uuid::Uuid::now_v7().to_string());
    attributes.entry("source".to_owned()).or_insert_with(|| rules.source.to_owned());
    for name in ["data", "data_base64", "datacontenttype"] {
        attributes.remove(name);
    }
    let mut fields: Map<String, Value> =
        attributes.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let content_type = content_type.filter(|kind| !kind.is_empty()).unwrap_or("application/json");
    fields.insert("datacontenttype".into(), content_type.into());
    let is_json = cloud_events::is_json(content_type);
    if is_json {
        data = body::without_bom_shared(data);
    }
    if is_json
        && !data.is_empty()
        && let Err(error) = json::check(&data)
    {
        problems.push(FieldError::at(
            "",
            format!("the body is not JSON, which its content type says it is: {error}"),
        ));
    }
    let (event, more) = cloud_events::draft(Document { fields, data: None }, rules.now_ms);
    problems.extend(more);
    ingested(Event { data, ..event }, problems, rules)
}

/// Checks a parsed event, given the problems of parsing.
fn ingested(
    mut event: Event,
    mut problems: Vec<FieldError>,
    rules: Rules<'_>,
) -> Result<IngestedEvent, Vec<FieldError>> {
    // A missing attribute is not reported as too short as well.
    let more = rules
        .check(&event)
        .into_iter()
        .filter(|one| !problems.iter().any(|before| before.pointer == one.pointer));
    let more: Vec<FieldError> = more.collect();
    problems.extend(more);
    let own = |event: &Event, wanted: &str| {
        event.attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    let due_at_ms =
        schedule(own(&event, DELIVER_AT).as_deref(), None, rules).unwrap_or_else(|detail| {
            problems.push(FieldError::at("/deliverat", detail));
            None
        });
    let correlation_id = own(&event, HOST_CORRELATION);
    let named = own(&event, HOST_SUBJECT);
    let resolved = rules.kinds.resolve(named.as_deref(), &event.event_type, &event.subject);
    let subject_key = resolved.unwrap_or_else(|error| {
        let (name, why) = match error {
            ResolveError::Named(why) => (HOST_SUBJECT, why),
            ResolveError::Subject(why) => ("subject", why),
        };
        problems.push(FieldError::at(pointer(name), why));
        None
    });
    event.attributes.retain(|(name, _)| !name.starts_with(HOST) && name != DELIVER_AT);
    // What no store and no broker can accept, whichever of them this host has.
    let envelope = Envelope {
        correlation_id: correlation_id.clone().unwrap_or_default(),
        ..Envelope::first(event.clone(), subject_key.clone(), rules.now_ms)
    };
    if problems.is_empty()
        && let Some(why) = envelope.validate()
    {
        problems.push(FieldError::at("", format!("the event has {why}")));
    }
    if problems.is_empty() {
        Ok(IngestedEvent { event, subject_key, correlation_id, due_at_ms })
    } else {
        Err(problems)
    }
}

/// When to deliver, given as a time or as a delay; none: immediately.
pub fn schedule(
    deliver_at: Option<&str>,
    delay: Option<&str>,
    rules: Rules<'_>,
) -> Result<Option<u64>, String> {
    let due_at_ms = match (deliver_at, delay) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err("give a time or a delay, not both".to_owned()),
        (Some(at), None) => timestamp::instant_ms(at)?,
        (None, Some(delay)) => rules.now_ms.saturating_add(timestamp::span_ms(delay)?),
    };
    let last_ms = rules.now_ms.saturating_add(rules.schedule_max_ms);
    if due_at_ms > last_ms {
        return Err(format!(
            "the latest is {} (`events.schedule_max_ms`)",
            timestamp::text(last_ms)
        ));
    }
    Ok((due_at_ms > rules.now_ms).then_some(due_at_ms))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules<'static> {
        Rules::for_tests(1_700_000_000_000)
    }

    #[test]
    fn the_three_modes_are_equivalent() {
        let document = json!({ "specversion": "1.0", "id": "9", "source": "/desk", "type": "order.flagged", "subject": "7", "data": {"a": 1},
            "deliverat": "2023-11-14T22:13:50Z", "zone": "x", "postridersubject": "order/o-7", "postriderstage": "payment" });
        let one = structured(&document.to_string(), rules()).unwrap();
        assert_eq!(
            batch(&json!([document]).to_string(), rules()).unwrap(),
            std::slice::from_ref(&one)
        );
        let attributes = [
            ("id", "9"),
            ("source", "/desk"),
            ("type", "order.flagged"),
            ("subject", "7"),
            ("zone", "x"),
        ];
        let mut attributes: BTreeMap<String, String> =
            attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        attributes.extend([
            ("deliverat".to_owned(), "1700000030000".to_owned()),
            ("postridersubject".to_owned(), "order/o-7".to_owned()),
        ]);
        assert_eq!(binary(attributes, None, "{\"a\":1}".into(), rules()).unwrap(), one);
        assert_eq!(
            (one.subject_key.as_deref(), one.due_at_ms),
            (Some("order/o-7"), Some(1_700_000_030_000))
        );
        assert_eq!(one.event.attributes, [("zone".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn problems_of_a_batch_have_pointers() {
        let good = json!({ "specversion": "1.0", "id": "1", "source": "/a", "type": "a" });
        let late = json!({ "specversion": "1.0", "id": "1", "source": "/a", "type": "a", "deliverat": "2100-01-01T00:00:00Z" });
        let problems =
            batch(&json!([good, { "id": "1" }, 7, late]).to_string(), rules()).unwrap_err();
        let pointers: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/1/specversion", "/1/source", "/1/type", "/2", "/3/deliverat"]);
        let reserved = json!({ "specversion": "1.0", "type": "postrider.x", "Bad": "x" });
        let pointers: Vec<String> = structured(&reserved.to_string(), rules())
            .unwrap_err()
            .into_iter()
            .map(|problem| problem.pointer)
            .collect();
        assert_eq!(pointers, ["/id", "/source", "/type", "/Bad"]);
        assert!(batch(&json!(vec![good; BATCH_MAX + 1]).to_string(), rules()).is_err());
    }

    #[test]
    fn sources_of_the_host_are_reserved() {
        let read = |source: &str, rules| {
            let event = json!({ "specversion": "1.0", "id": "1", "source": source, "type": "a" });
            structured(&event.to_string(), rules)
        };
        for source in [
            "/orders/api",
            "/orders/api/x",
            "/orders/stages/payment",
            "/orders/stages",
            "/postrider/unreadable",
            "/postrider",
        ] {
            let problems = read(source, rules()).unwrap_err();
            assert_eq!(problems.len(), 1, "{source}");
            assert_eq!(problems[0].pointer, "/source", "{source}");
            assert!(read(source, rules().for_import()).is_ok(), "{source}");
        }
        for source in [
            "/orders/events",
            "/orders/apis",
            "/orders/stagesx",
            "/orders",
            "/shop/api",
            "orders/api",
            "/orders2/api",
            "/desk",
            "/postriders",
        ] {
            assert!(read(source, rules()).is_ok(), "{source}");
        }
        // A namespace may have any name.
        let rules = Rules { namespace: "postrider", source: "/postrider/events", ..rules() };
        assert!(read("/postrider/events", rules).is_ok());
        assert!(read("/postrider/api", rules).is_err());
    }

    #[test]
    fn imports_take_events_of_any_source() {
        let event = |event_type: &str| json!({ "specversion": "1.0", "id": "..", "source": "/orders/stages/x", "type": event_type, "My_attr": "x" });
        assert!(structured(&event("a.b").to_string(), rules().for_import()).is_ok());
        assert!(structured(&event("a.b").to_string(), rules()).is_err());
        let problems =
            structured(&event("postrider.x").to_string(), rules().for_import()).unwrap_err();
        assert_eq!(problems[0].pointer, "/type");
    }

    #[test]
    fn what_no_broker_accepts_is_refused() {
        let mut event = json!({ "specversion": "1.0", "id": "1", "source": "/a", "type": "a" });
        for number in 0..64 {
            event[format!("a{number}")] = json!("x".repeat(400));
        }
        assert!(structured(&event.to_string(), rules()).is_ok());
        for number in 0..64 {
            event[format!("a{number}")] = json!("💩".repeat(1_024));
        }
        let problems = structured(&event.to_string(), rules()).unwrap_err();
        assert!(problems[0].detail.contains("the limit is 32768"), "{problems:?}");
        let long =
            json!({ "specversion": "1.0", "id": "💩".repeat(255), "source": "/a", "type": "a" });
        assert!(
            structured(&long.to_string(), rules()).unwrap_err()[0]
                .detail
                .contains("the limit is 1000")
        );
        let kind = json!({ "specversion": "1.0", "id": "1", "source": "/a", "type": "a",
            "datacontenttype": "ä".repeat(255) });
        assert!(
            structured(&kind.to_string(), rules()).unwrap_err()[0]
                .detail
                .contains("the limit is 255")
        );
    }

    #[test]
    fn schedules_are_bounded_and_past_times_mean_now() {
        assert_eq!(schedule(None, Some("30s"), rules()), Ok(Some(rules().now_ms + 30_000)));
        assert_eq!(schedule(Some("2001-01-01T00:00:00Z"), None, rules()), Ok(None));
        assert!(schedule(None, Some("61s"), rules()).unwrap_err().contains("schedule_max_ms"));
        assert!(
            schedule(Some("1"), Some("1s"), rules()).is_err()
                && schedule(None, Some("soon"), rules()).is_err()
        );
    }

    #[test]
    fn json_media_types_are_recognised() {
        let attributes = || BTreeMap::from([("type".to_owned(), "a.b".to_owned())]);
        assert_eq!(
            binary(attributes(), Some("application/json"), "{".into(), rules()).unwrap_err().len(),
            1
        );
        let ingested = binary(attributes(), Some("text/plain"), "{".into(), rules()).unwrap();
        assert_eq!(
            (ingested.event.source.as_str(), ingested.subject_key),
            ("/orders/events", None)
        );
    }
}
