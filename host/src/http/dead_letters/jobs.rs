//! `/dead-letters/replay`, `/dead-letters/discard`, `/dead-letters/jobs`: many letters at once, as a job of this host.
//!
//! A body that asks for something else than it says could close ten thousand letters: every field is checked, and no filter at all must
//! be said with `"all": true`.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::instant;
use crate::http::Shared;
use crate::http::json::JsonBody;
use crate::http::problem::{Answer, Problem};
use crate::orders;
use crate::store::DeadLetterFilter;
use crate::workbench::{Job, RATE, RATE_MAX, StartError, Task, Work};

pub(in crate::http) async fn replay_many(State(app): State<Shared>, JsonBody(body): JsonBody) -> Answer<Response> {
    let mut asked = Asked::new(body, &["filter", "rate_per_second", "edit"]);
    // A patch that is no object would put itself in the place of every body.
    let patch = asked.fields.remove("edit").filter(|patch| !patch.is_null());
    if patch.as_ref().is_some_and(|patch| !patch.is_object()) {
        asked.problem("/edit", "must be an object: a JSON merge patch (RFC 7396)");
    }
    start(&app, asked, Work::Replay { patch }).await
}

pub(in crate::http) async fn discard_many(State(app): State<Shared>, JsonBody(body): JsonBody) -> Answer<Response> {
    let mut asked = Asked::new(body, &["filter", "rate_per_second", "reason"]);
    let reason = asked.text("", "reason").filter(|reason| !reason.trim().is_empty()).unwrap_or_default();
    if reason.is_empty() {
        asked.problem("/reason", "must say why the letters are closed");
    }
    start(&app, asked, Work::Discard { reason }).await
}

async fn start(app: &Shared, asked: Asked, work: Work) -> Answer<Response> {
    let (filter, rate_per_second) = asked.finish()?;
    let job = app.workbench().start(Task { filter, work, rate_per_second }).await?;
    let place = format!("/dead-letters/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(shown(&job))).into_response())
}

pub(in crate::http) async fn list_jobs(State(app): State<Shared>) -> Json<Value> {
    let items: Vec<Value> = app.workbench().jobs().iter().map(|job| shown(job)).collect();
    Json(json!({ "items": items }))
}

pub(in crate::http) async fn show_job(State(app): State<Shared>, Path(id): Path<String>) -> Answer<Json<Value>> {
    Ok(Json(shown(&*find(&app, &id)?)))
}

pub(in crate::http) async fn cancel_job(State(app): State<Shared>, Path(id): Path<String>) -> Answer<Response> {
    let job = find(&app, &id)?;
    job.cancel();
    Ok((StatusCode::ACCEPTED, Json(shown(&job))).into_response())
}

fn find(app: &Shared, id: &str) -> Answer<Arc<Job>> {
    app.workbench().job(id).ok_or_else(|| Problem::not_found(format!("this host knows no job `{id}`: jobs end with their host")))
}

fn shown(job: &Job) -> Value {
    let (action, patch, reason) = match &job.task.work {
        Work::Replay { patch } => ("replay", patch.as_ref(), None),
        Work::Discard { reason } => ("discard", None, Some(reason)),
    };
    let filter = &job.task.filter;
    let mut body = json!(job.status());
    body["id"] = json!(job.id);
    body["action"] = json!(action);
    body["edit"] = json!(patch);
    body["reason"] = json!(reason);
    body["rate_per_second"] = json!(job.task.rate_per_second);
    body["filter"] = json!({
        "stage": filter.stage,
        "code": filter.code,
        "group": filter.group,
        "order": filter.order,
        "since_ms": filter.since_ms,
        "until_ms": filter.until_ms,
    });
    body
}

/// A body, taken apart field by field; every problem is kept.
struct Asked {
    fields: Map<String, Value>,
    problems: Vec<orders::Problem>,
}

impl Asked {
    fn new(body: Value, known: &[&str]) -> Self {
        let mut asked = Self { fields: Map::new(), problems: Vec::new() };
        match body {
            Value::Object(fields) => asked.fields = fields,
            _ => asked.problem("", "must be an object"),
        }
        asked.only("", known);
        asked
    }

    fn problem(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(orders::Problem { pointer: pointer.to_owned(), detail: detail.into() });
    }

    fn only(&mut self, pointer: &str, known: &[&str]) {
        let unknown: Vec<String> = self.fields.keys().filter(|name| !known.contains(&name.as_str())).cloned().collect();
        for name in unknown {
            self.problem(&format!("{pointer}/{name}"), format!("is unknown; known are {}", known.join(", ")));
        }
    }

    fn text(&mut self, pointer: &str, name: &str) -> Option<String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.problem(&format!("{pointer}/{name}"), "must be a string");
                None
            }
        }
    }

    fn time(&mut self, pointer: &str, name: &str) -> Option<u64> {
        let said = match self.fields.remove(name)? {
            Value::Null => return None,
            Value::String(text) => instant(&text),
            other => instant(&other.to_string()),
        };
        said.map_err(|why| self.problem(&format!("{pointer}/{name}"), why)).ok()
    }

    fn rate(&mut self) -> NonZeroU32 {
        let Some(rate) = self.fields.remove("rate_per_second").filter(|rate| !rate.is_null()) else { return RATE };
        let rate = rate.as_u64().and_then(|rate| u32::try_from(rate).ok()).filter(|rate| *rate <= RATE_MAX).and_then(NonZeroU32::new);
        rate.unwrap_or_else(|| {
            self.problem("/rate_per_second", format!("must be a whole number from 1 to {RATE_MAX}"));
            RATE
        })
    }

    /// The filter and the rate, or all that is wrong with the body.
    fn finish(mut self) -> Answer<(DeadLetterFilter, NonZeroU32)> {
        let rate = self.rate();
        match self.fields.remove("filter") {
            Some(Value::Object(fields)) => self.fields = fields,
            Some(Value::Null) | None => self.fields = Map::new(),
            Some(_) => {
                self.problem("/filter", "must be an object");
                self.fields = Map::new();
            }
        }
        self.only("/filter", &["stage", "code", "group", "order", "since", "until", "all"]);
        let filter = DeadLetterFilter {
            stage: self.text("/filter", "stage"),
            code: self.text("/filter", "code"),
            group: self.text("/filter", "group"),
            order: self.text("/filter", "order"),
            since_ms: self.time("/filter", "since"),
            until_ms: self.time("/filter", "until"),
            ..DeadLetterFilter::default()
        };
        let all = self.fields.remove("all").is_some_and(|all| all == true);
        if self.problems.is_empty() && filter == DeadLetterFilter::default() && !all {
            self.problem("/filter", "must say which letters; for every open one, `\"all\": true`");
        }
        if self.problems.is_empty() { Ok((filter, rate)) } else { Err(Problem::invalid("The body asks for nothing clear", self.problems)) }
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            StartError::TooMany => Self::unavailable(error.to_string()),
        }
    }
}
