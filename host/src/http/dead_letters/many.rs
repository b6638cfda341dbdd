//! `POST /dead-letters/replay` and `POST /dead-letters/discard`: many dead letters at once, as a
//! job of this host with a bounded rate.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::filter::{selection, stage_of};
use super::jobs::JobView;
use crate::app::dead_letters::{RATE, RATE_MAX, StartError, Task, Work};
use crate::domain::access::{Permission, Requester};
use crate::domain::json::whole;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Fields, Parsed, RequestBody};

/// A job that replays.
pub(crate) struct ReplayMany(Task);

impl RequestBody for ReplayMany {
    const NAME: &'static str = "replay request";
    const FIELDS: &'static [&'static str] = &["filter", "rate_per_second", "edit"];

    fn take(fields: &mut Fields) -> Self {
        // A merge patch that is not an object would replace every body.
        let patch = fields.take("edit");
        if patch.as_ref().is_some_and(|patch| !patch.is_object()) {
            fields.problem("/edit", "must be an object: a JSON merge patch (RFC 7396)");
        }
        Self(task(fields, Work::Replay { patch }))
    }
}

/// A job that discards.
pub(crate) struct DiscardMany(Task);

impl RequestBody for DiscardMany {
    const NAME: &'static str = "discard request";
    const FIELDS: &'static [&'static str] = &["filter", "rate_per_second", "reason"];

    fn take(fields: &mut Fields) -> Self {
        let reason = fields.reason().filter(|reason| !reason.trim().is_empty()).unwrap_or_default();
        if reason.is_empty() {
            fields.problem("/reason", "must say why the dead letters are discarded");
        }
        Self(task(fields, Work::Discard { reason }))
    }
}

fn task(fields: &mut Fields, work: Work) -> Task {
    let rate_per_second = rate(fields);
    Task { filter: selection(fields), work, rate_per_second }
}

fn rate(fields: &mut Fields) -> NonZeroU32 {
    let Some(rate) = fields.take("rate_per_second") else { return RATE };
    let rate = whole(&rate)
        .and_then(|rate| u32::try_from(rate).ok())
        .filter(|rate| *rate <= RATE_MAX)
        .and_then(NonZeroU32::new);
    rate.unwrap_or_else(|| {
        fields.problem("/rate_per_second", format!("must be a whole number from 1 to {RATE_MAX}"));
        RATE
    })
}

/// Replays many dead letters, at a bounded rate.
#[utoipa::path(post, path = "/dead-letters/replay", tag = "dead letters",
    request_body = ref("#/components/schemas/ReplayMany"),
    responses((status = 202, description = "The job is waiting or running", body = JobView,
        headers(("Location" = String, description = "The job")))))]
pub(crate) async fn replay_many(
    State(app): State<Shared>,
    requester: Requester,
    Parsed(ReplayMany(task)): Parsed<ReplayMany>,
) -> Answer<Response> {
    start(&app, &requester, task).await
}

/// Discards many dead letters, at a bounded rate.
#[utoipa::path(post, path = "/dead-letters/discard", tag = "dead letters",
    request_body = ref("#/components/schemas/DiscardMany"),
    responses((status = 202, description = "The job is waiting or running", body = JobView,
        headers(("Location" = String, description = "The job")))))]
pub(crate) async fn discard_many(
    State(app): State<Shared>,
    requester: Requester,
    Parsed(DiscardMany(task)): Parsed<DiscardMany>,
) -> Answer<Response> {
    start(&app, &requester, task).await
}

async fn start(app: &Shared, requester: &Requester, task: Task) -> Answer<Response> {
    requester.require(Permission::Operate, stage_of(&task.filter))?;
    let job = app.dead_letters().start(task).await?;
    let location = format!("/dead-letters/jobs/{}", job.id);
    let headers = [(header::LOCATION, location)];
    Ok((StatusCode::ACCEPTED, headers, Json(JobView::of(&job, requester))).into_response())
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            StartError::TooMany => Self::unavailable(error.to_string()),
        }
    }
}
