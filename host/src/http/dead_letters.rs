//! `/dead-letters`: what needs a person: list, groups, show, replay (as it was, or edited), discard; many at once in `jobs`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::json::{JsonBody, payload};
use super::orders::page_size;
use super::problem::{Answer, Problem};
use crate::store::{DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterStatus};
use crate::workbench::{Edit, Replayed, Successor};

mod jobs;

pub(super) use self::jobs::{cancel_job, discard_many, list_jobs, replay_many, show_job};

/// Which letters; also of groups.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    stage: Option<String>,
    code: Option<String>,
    status: Option<DeadLetterStatus>,
    group: Option<String>,
    #[serde(alias = "order_id")]
    order: Option<String>,
    since: Option<String>,
    until: Option<String>,
    cursor: Option<i64>,
    limit: Option<u32>,
}

impl ListQuery {
    fn filter(self) -> Answer<DeadLetterFilter> {
        let limit = page_size(self.limit)?;
        let at = |name: &str, text: Option<String>| {
            text.map(|text| instant(&text)).transpose().map_err(|why| Problem::bad_query(format!("{name}: {why}")))
        };
        Ok(DeadLetterFilter {
            since_ms: at("since", self.since)?,
            until_ms: at("until", self.until)?,
            stage: self.stage,
            code: self.code,
            status: self.status,
            group: self.group,
            order: self.order,
            before: self.cursor,
            limit,
        })
    }
}

/// A time, in either form.
fn instant(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<u64>().ok().filter(|time| i64::try_from(*time).is_ok());
    let stamp = || text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    parsed.or_else(stamp).ok_or_else(|| format!("`{text}` is neither a time as in 2026-01-31T12:00:00Z nor milliseconds since 1970"))
}

pub(super) async fn list(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let page = app.workbench().list(query.filter()?).await?;
    let items: Vec<Value> = page.items.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": page.next })))
}

pub(super) async fn groups(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let page = app.workbench().groups(query.filter()?).await?;
    Ok(Json(json!({ "items": page.items, "next": page.next })))
}

pub(super) async fn show(State(app): State<Shared>, Path(id): Path<i64>) -> Answer<Json<Value>> {
    let story = app.workbench().letter(id).await?.ok_or_else(|| missing(id))?;
    let (letter, event) = (&story.letter, &story.letter.envelope.event);
    let mut body = summary(letter);
    body["event"]["time_ms"] = json!(event.time_ms);
    body["event"]["content_type"] = json!(event.content_type);
    body["event"]["attributes"] = json!(event.attributes.iter().cloned().collect::<BTreeMap<_, _>>());
    body["data"] = payload(&event.data);
    body["attempts"] = json!(letter.attempts);
    body["correlation_id"] = json!(letter.envelope.correlation_id);
    body["cause"] = json!(letter.envelope.cause);
    body["expires_at_ms"] = json!(letter.envelope.expires_at_ms);
    body["replayed_as"] = story.successor.as_ref().map_or(Value::Null, successor);
    Ok(Json(body))
}

fn summary(letter: &DeadLetter) -> Value {
    let event = &letter.envelope.event;
    json!({
        "id": letter.id,
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "group": letter.group.as_ref().map(|group| json!({ "id": group, "cause": letter.cause })),
        "status": letter.status,
        "note": letter.note,
        "order_id": letter.envelope.order_id,
        "event": { "type": event.event_type, "id": event.id, "source": event.source, "subject": event.subject },
        "round": letter.round,
        "digest": letter.digest,
        "died_at_ms": letter.died_at_ms,
        "settled_at_ms": letter.settled_at_ms,
    })
}

fn successor(successor: &Successor) -> Value {
    let delivery = successor.delivery.as_ref().map(|delivery| {
        json!({
            "status": delivery.status,
            "round": delivery.round,
            "attempt": delivery.attempt,
            "digest": delivery.digest,
            "settled_at_ms": delivery.settled_at_ms,
        })
    });
    json!({ "event": successor.event, "edited": successor.edited, "delivery": delivery })
}

fn missing(id: i64) -> Problem {
    Problem::not_found(format!("no dead letter {id}"))
}

pub(super) async fn replay(State(app): State<Shared>, Path(id): Path<i64>, JsonBody(body): JsonBody) -> Answer<Json<Value>> {
    let edit = match body {
        Value::Null => Edit::None,
        Value::Object(mut fields) => match (fields.remove("data"), fields.remove("edit")) {
            (None, None) => Edit::None,
            (Some(data), None) => Edit::Body(data),
            (None, Some(patch)) => Edit::Patch(patch),
            (Some(_), Some(_)) => return Err(Problem::malformed("send the new `data` or a merge patch in `edit`, not both")),
        },
        _ => return Err(Problem::malformed("send nothing, or an object with the new `data` or a merge patch in `edit`")),
    };
    match app.workbench().replay(id, &edit).await? {
        Replayed::Settled { action, event } => {
            settle(id, action)?;
            Ok(Json(json!({ "id": id, "status": "replayed", "edited": event.is_some(), "event": event })))
        }
        Replayed::NotEditable(why) => {
            let detail = format!("dead letter {id}: {why}; nothing was changed");
            Err(Problem::conflict("/problems/not-editable", "The body cannot be patched", detail))
        }
    }
}

pub(super) async fn discard(State(app): State<Shared>, Path(id): Path<i64>, JsonBody(body): JsonBody) -> Answer<Json<Value>> {
    let reason = body["reason"].as_str().unwrap_or("no reason given");
    settle(id, app.workbench().discard(id, reason).await?)?;
    Ok(Json(json!({ "id": id, "status": "discarded" })))
}

fn settle(id: i64, action: DeadLetterAction) -> Answer<()> {
    match action {
        DeadLetterAction::Done(_) => Ok(()),
        DeadLetterAction::NotFound => Err(missing(id)),
        DeadLetterAction::AlreadySettled(status) => {
            let detail = format!("dead letter {id} is {} already; nothing was changed", json!(status).as_str().unwrap_or("settled"));
            Err(Problem::conflict("/problems/dead-letter-settled", "The dead letter is settled", detail))
        }
    }
}
