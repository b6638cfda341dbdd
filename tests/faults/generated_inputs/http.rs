//! Generated HTTP requests.

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Run, one_of, text};

/// Requests under way at a time.
const CONCURRENT: usize = 16;

const CONTENT_TYPES: [&str; 10] = [
    "application/json",
    "application/json",
    "application/json; charset=utf-8",
    "Application/JSON",
    "application/json; charset=utf-16",
    "text/plain",
    "application/octet-stream",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "nonsense",
];

struct Request {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

struct Answer {
    method: Method,
    /// Path and idempotency key of a request that has one.
    named: Option<String>,
    status: StatusCode,
    body: Value,
}

/// Sends `count` requests, and counts the answers. None may be an error of the host.
pub(super) async fn send(run: &mut Run, count: u32) -> Result<()> {
    let requests: Vec<Request> = (0..count).map(|_| request(&mut run.rng)).collect();
    let http = reqwest::Client::new();
    let url = run.client.url.clone();
    let answers = requests.into_iter().map(|request| {
        let Request { method, path, headers, body } = request;
        let shown = format!("{method} {path} {headers:?} {}", String::from_utf8_lossy(&body));
        // Events are told apart by their ids, with a key or without.
        let key = headers
            .iter()
            .find(|(name, _)| *name == "idempotency-key" && !path.starts_with("/events"));
        let named = key.map(|(_, key)| format!("{path} {key}"));
        let mut sent = http.request(method.clone(), format!("{url}{path}")).body(body);
        for (name, value) in headers {
            sent = sent.header(name, value);
        }
        async move {
            let shown: String = shown.chars().take(600).collect();
            let answer = sent.send().await.with_context(|| shown.clone())?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(!status.is_server_error(), "{shown}: {status} {text}");
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Ok(Answer { method, named, status, body })
        }
    });
    let answers: Vec<Result<Answer>> =
        futures::stream::iter(answers).buffer_unordered(CONCURRENT).collect().await;
    for answer in answers {
        let Answer { method, named, status, body } = answer?;
        let counts = &mut run.counts;
        match status {
            _ if method == Method::GET => counts.read += 1,
            // A repetition under the same key gets the answer that the first one got.
            StatusCode::ACCEPTED if named.is_some_and(|named| !run.named.insert(named)) => {
                counts.repeated += 1;
            }
            StatusCode::ACCEPTED if body["items"].is_array() => {
                counts.accepted += body["accepted"].as_u64().unwrap_or_default();
                counts.repeated += body["duplicates"].as_u64().unwrap_or_default();
            }
            StatusCode::ACCEPTED if body["duplicate"] != true => counts.accepted += 1,
            status if status.is_success() => counts.repeated += 1,
            _ => counts.rejected += 1,
        }
    }
    Ok(())
}

fn request(rng: &mut StdRng) -> Request {
    let id = format!("h-{}", rng.random::<u64>());
    match rng.random_range(0..10) {
        0..4 => post(rng, "/orders".to_owned(), |rng| text::order(rng, &id)),
        4 => post(
            rng,
            "/products".to_owned(),
            |rng| json!({ "sku": text::text(rng, "Book"), "quantity": rng.random_range(0..9) }),
        ),
        5 => {
            let mut event = cloud_event(rng, &id);
            if rng.random_ratio(1, 4) {
                event = json!([event, cloud_event(rng, &format!("{id}-b"))]);
            }
            post(rng, "/events".to_owned(), |_| event)
        }
        6..8 => {
            let event_type = text::text(rng, "desk.note");
            let path = format!("/events/{}", encoded(&event_type));
            post(rng, path, |rng| text::order(rng, &id))
        }
        _ => read(rng, &id),
    }
}

fn post(rng: &mut StdRng, path: String, document: impl FnOnce(&mut StdRng) -> Value) -> Request {
    let document = document(rng);
    let usual = match (&document, path.as_str()) {
        (Value::Array(_), _) => "application/cloudevents-batch+json",
        (_, "/events") => "application/cloudevents+json",
        _ => "application/json",
    };
    let content_type =
        if rng.random_ratio(1, 10) { *one_of(rng, &CONTENT_TYPES) } else { usual }.to_owned();
    let mut headers = vec![("content-type", content_type)];
    if rng.random_ratio(1, 10) {
        // From a small set: some are used twice.
        headers.push(("idempotency-key", format!("key-{}", rng.random_range(0..5_000))));
    }
    if rng.random_ratio(1, 20) {
        headers
            .push(("delay", (*one_of(rng, &["1s", "-1s", "soon", "999999d", "1ms"])).to_owned()));
    }
    if rng.random_ratio(1, 20) {
        let encoding = *one_of(rng, &["gzip", "br", "identity", "utf-8", "gzip, gzip"]);
        headers.push(("content-encoding", encoding.to_owned()));
    }
    if rng.random_ratio(1, 20) {
        headers.push(("ce-subject", (*one_of(rng, &["\"h 1\"", "%C3%A4", "%ff", "h"])).to_owned()));
    }
    if rng.random_ratio(1, 20) {
        headers.push((
            "ce-id",
            text::text(rng, "h-1").replace(|one: char| !one.is_ascii_graphic(), ""),
        ));
    }
    let body = text::bytes(rng, &document);
    Request { method: Method::POST, path, headers, body }
}

fn cloud_event(rng: &mut StdRng, id: &str) -> Value {
    let mut event = json!({ "specversion": "1.0", "id": text::text(rng, id),
        "source": text::text(rng, "/desk"), "type": text::text(rng, "order.created"),
        "subject": text::text(rng, id), "data": text::order(rng, id) });
    let (name, value) = match rng.random_range(0..10) {
        0 => (
            "time",
            json!(*one_of(rng, &["2026-01-01T00:00:00Z", "yesterday", "0001-01-01T00:00:00Z"])),
        ),
        1 => ("Bad", json!(1)),
        2 => ("zone", json!({ "a": 1 })),
        3 => ("specversion", json!("0.3")),
        4 => (
            "deliverat",
            json!(*one_of(rng, &["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "x"])),
        ),
        5 => ("data_base64", json!("!")),
        _ => return event,
    };
    event[name] = value;
    event
}

fn read(rng: &mut StdRng, id: &str) -> Request {
    let odd = encoded(&text::text(rng, id));
    let paths = [
        "/orders/",
        "/events/",
        "/products/",
        "/dead-letters/",
        "/orders?status=",
        "/orders?since=",
        "/events?type=",
        "/events?cursor=",
        "/dead-letters?stage=",
        "/nowhere/",
    ];
    let path = format!("{}{odd}", one_of(rng, &paths));
    Request { method: Method::GET, path, headers: Vec::new(), body: Vec::new() }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
