//! `/dead-letters`: what needs a person: list, show, replay (as it was, or edited), discard.

use axum::Json;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::json::{JsonBody, payload};
use super::orders::page_size;
use super::problem::{Answer, Problem};
use crate::store::{DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterStatus};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    stage: Option<String>,
    code: Option<String>,
    status: Option<DeadLetterStatus>,
    cursor: Option<i64>,
    limit: Option<u32>,
}

pub(super) async fn list(State(app): State<Shared>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer<Json<Value>> {
    let Query(query) = query?;
    let limit = page_size(query.limit)?;
    let filter = DeadLetterFilter { stage: query.stage, code: query.code, status: query.status, before: query.cursor, limit };
    let page = app.services().store.dead_letters(filter).await?;
    let items: Vec<Value> = page.items.iter().map(summary).collect();
    Ok(Json(json!({ "items": items, "next": page.next })))
}

pub(super) async fn show(State(app): State<Shared>, Path(id): Path<i64>) -> Answer<Json<Value>> {
    let letter = app.services().store.dead_letter(id).await?.ok_or_else(|| missing(id))?;
    let mut body = summary(&letter);
    body["data"] = payload(&letter.envelope.event.data);
    body["attempts"] = json!(letter.attempts);
    body["correlation_id"] = json!(letter.envelope.correlation_id);
    body["cause"] = json!(letter.envelope.cause);
    Ok(Json(body))
}

fn summary(letter: &DeadLetter) -> Value {
    let event = &letter.envelope.event;
    json!({
        "id": letter.id,
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "status": letter.status,
        "note": letter.note,
        "order_id": letter.envelope.order_id,
        "event": { "type": event.event_type, "id": event.id, "source": event.source, "subject": event.subject },
        "round": letter.round,
        "digest": letter.digest,
        "died_at_ms": letter.died_at_ms,
    })
}

fn missing(id: i64) -> Problem {
    Problem::not_found(format!("no dead letter {id}"))
}

pub(super) async fn replay(State(app): State<Shared>, Path(id): Path<i64>, JsonBody(body): JsonBody) -> Answer<Json<Value>> {
    let data = match body {
        Value::Null => None,
        Value::Object(mut fields) => fields.remove("data"),
        _ => return Err(Problem::malformed("send nothing, or an object with the new `data`")),
    };
    let edited = data.is_some();
    settle(id, app.replay(id, data).await?)?;
    Ok(Json(json!({ "id": id, "status": "replayed", "edited": edited })))
}

pub(super) async fn discard(State(app): State<Shared>, Path(id): Path<i64>, JsonBody(body): JsonBody) -> Answer<Json<Value>> {
    let reason = body["reason"].as_str().unwrap_or("no reason given").to_owned();
    settle(id, app.discard(id, reason).await?)?;
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
