//! Fixtures: an event, and what the stage runs with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use postrider::internals::HttpMock;
use postrider::{Envelope, Event};

/// A fixture does not expire: its time may be any.
const EXPIRY_MS: u64 = 24 * 60 * 60 * 1_000;

/// An event, with the state, settings, secrets and services that the stage runs with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    event: CaseEvent,
    /// Initial state of the stage.
    #[serde(default)]
    pub(crate) state: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) config: BTreeMap<String, String>,
    /// Settings that may not leave the stage.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
    /// Answers to its HTTP calls; none: the calls are made, if the configuration grants them.
    pub(crate) http: Option<Vec<CaseAnswer>>,
    #[serde(default = "first_attempt")]
    pub(crate) attempt: u32,
    /// Time of the stage's clock, in milliseconds since 1970-01-01 UTC.
    pub(crate) now_ms: Option<u64>,
}

fn first_attempt() -> u32 {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseEvent {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default = "event_id")]
    id: String,
    #[serde(default = "event_source")]
    source: String,
    #[serde(default = "event_subject")]
    subject: String,
    time_ms: Option<u64>,
    #[serde(default = "json_type")]
    content_type: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// The answer to the HTTP calls of one address.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseAnswer {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Text as it is, any other value as JSON.
    #[serde(default)]
    body: Value,
}

fn event_id() -> String {
    "event-1".to_owned()
}

fn event_source() -> String {
    "/cli".to_owned()
}

fn event_subject() -> String {
    "subject-1".to_owned()
}

fn json_type() -> String {
    "application/json".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}

impl Case {
    /// Parses a fixture, or an event on its own.
    pub(crate) fn parse(json: Value) -> Result<Self> {
        let case = if json.get("event").is_some() { json } else { json!({ "event": json }) };
        let case: Self = serde_json::from_value(case).context(
            "expected an event {\"type\", \"subject\"?, \"data\"?, …}, or a fixture \
             {\"event\", \"state\"?, \"config\"?, \"secrets\"?, \"http\"?, \"attempt\"?, \
             \"now_ms\"?}",
        )?;
        for (at, mock) in case.mocks().iter().flatten().enumerate() {
            let problem = mock.problem();
            ensure!(problem.is_none(), "http[{at}]: {}", problem.unwrap_or_default());
        }
        Ok(case)
    }

    /// The answers to HTTP calls.
    pub(crate) fn mocks(&self) -> Option<Vec<HttpMock>> {
        let mock = |answer: &CaseAnswer| HttpMock {
            method: answer.method.clone(),
            url: answer.url.clone(),
            status: answer.status,
            headers: answer.headers.clone().into_iter().collect(),
            body: match &answer.body {
                Value::Null => Bytes::new(),
                Value::String(text) => text.clone().into(),
                other => other.to_string().into(),
            },
        };
        Some(self.http.as_ref()?.iter().map(mock).collect())
    }

    /// The event, as a host accepts it.
    pub(crate) fn envelope(&self, now_ms: u64) -> Result<Envelope> {
        let case = &self.event;
        // In a fixture, data of any other content type is a JSON string.
        let data = match &case.data {
            Value::String(text) if !case.content_type.contains("json") => text.clone(),
            value => value.to_string(),
        };
        let event = Event {
            id: case.id.clone(),
            event_type: case.event_type.clone(),
            source: case.source.clone(),
            subject: case.subject.clone(),
            time_ms: case.time_ms.unwrap_or(now_ms),
            content_type: case.content_type.clone(),
            data: data.into(),
            attributes: case.attributes.clone().into_iter().collect(),
        };
        let envelope = Envelope::first(event, None, now_ms.saturating_add(EXPIRY_MS));
        match envelope.validate() {
            None => Ok(envelope),
            Some(why) => Err(anyhow::anyhow!("event: a host does not accept it: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_on_its_own_is_a_fixture() {
        let case = Case::parse(json!({ "type": "order.created", "data": { "a": 1 } })).unwrap();
        let envelope = case.envelope(7).unwrap();
        assert_eq!(
            (&*envelope.event.data, envelope.event.time_ms, envelope.event.subject.as_str()),
            (&b"{\"a\":1}"[..], 7, "subject-1")
        );
        let case = Case::parse(json!({ "event": { "type": "x", "content_type": "text/plain", "data": "hello" }, "attempt": 3 })).unwrap();
        assert_eq!((&*case.envelope(7).unwrap().event.data, case.attempt), (&b"hello"[..], 3));
        let misspelt = Case::parse(json!({ "type": "x", "dta": 1 })).unwrap_err();
        assert!(format!("{misspelt:#}").contains("`dta`"), "{misspelt:#}");
        let empty = Case::parse(json!({ "type": "" })).unwrap().envelope(7).unwrap_err();
        assert!(empty.to_string().contains("no type"), "{empty:#}");
    }

    #[test]
    fn answers_of_services_are_part_of_a_fixture() {
        let case = |url: &str| {
            Case::parse(
                json!({ "event": { "type": "x" }, "http": [{ "url": url, "body": { "a": 1 } }] }),
            )
        };
        let mocks = case("https://bank.example/pay").unwrap().mocks().unwrap();
        assert_eq!((mocks[0].method.as_str(), mocks[0].status), ("GET", 200));
        assert_eq!(&mocks[0].body[..], b"{\"a\":1}");
        let invalid = case("/pay").unwrap_err();
        assert!(invalid.to_string().starts_with("http[0]: "), "{invalid:#}");
    }
}
