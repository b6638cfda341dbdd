//! `/dead-letters/replay`, `/dead-letters/discard`, `/dead-letters/jobs`: many dead letters at once, as
//! a job of this host.
//!
//! No filter at all must be said with `"all": true`.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::dead_letters::{Job, JobStatus, RATE, RATE_MAX, StartError, Task, Work};
use crate::domain::order::whole;
use crate::http::Shared;
use crate::http::fields::Fields;
use crate::http::json::JsonBody;
use crate::http::lists::Items;
use crate::http::paths::JobId;
use crate::http::problem::{Answer, Problem};
use crate::store::DeadLetterFilter;

/// A job of this host.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct JobView {
    id: String,
    /// `replay` or `discard`.
    action: &'static str,
    /// Merge patch (RFC 7396) that is applied to each body.
    edit: Option<Value>,
    /// Why dead letters are discarded.
    reason: Option<String>,
    /// Letters a second, at most.
    rate_per_second: u32,
    filter: JobFilter,
    #[serde(flatten)]
    status: JobStatus,
}

/// Which dead letters a job is about.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct JobFilter {
    stage: Option<String>,
    code: Option<String>,
    group: Option<String>,
    order: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    since_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    until_ms: Option<u64>,
}

/// Runs many dead letters again, at a bounded rate.
#[utoipa::path(post, path = "/dead-letters/replay", tag = "dead letters", request_body = ref("#/components/schemas/ReplayMany"),
    responses((status = 202, description = "The job is waiting or under way", body = JobView, headers(("Location" = String, description = "The job")))))]
pub(in crate::http) async fn replay_many(
    State(app): State<Shared>,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let mut fields = Fields::required(body, &["filter", "rate_per_second", "edit"]);
    // A patch that is no object would put itself in the place of every body.
    let patch = fields.take("edit");
    if patch.as_ref().is_some_and(|patch| !patch.is_object()) {
        fields.problem("/edit", "must be an object: a JSON merge patch (RFC 7396)");
    }
    start(&app, fields, Work::Replay { patch }).await
}

/// Closes many dead letters for good.
#[utoipa::path(post, path = "/dead-letters/discard", tag = "dead letters", request_body = ref("#/components/schemas/DiscardMany"),
    responses((status = 202, description = "The job is waiting or under way", body = JobView, headers(("Location" = String, description = "The job")))))]
pub(in crate::http) async fn discard_many(
    State(app): State<Shared>,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let mut fields = Fields::required(body, &["filter", "rate_per_second", "reason"]);
    let reason = fields.reason().filter(|reason| !reason.trim().is_empty()).unwrap_or_default();
    if reason.is_empty() {
        fields.problem("/reason", "must say why the dead letters are closed");
    }
    start(&app, fields, Work::Discard { reason }).await
}

async fn start(app: &Shared, fields: Fields, work: Work) -> Answer<Response> {
    let (filter, rate_per_second) = asked(fields)?;
    let job = app.dead_letters().start(Task { filter, work, rate_per_second }).await?;
    let place = format!("/dead-letters/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(JobView::of(&job))).into_response())
}

/// The filter and the rate, or all that is wrong with the body.
fn asked(mut fields: Fields) -> Answer<(DeadLetterFilter, NonZeroU32)> {
    let rate = rate(&mut fields);
    fields.enter("filter", &["stage", "code", "group", "order", "since", "until", "all"]);
    let filter = DeadLetterFilter {
        stage: fields.text("stage"),
        code: fields.text("code"),
        group: fields.text("group"),
        order: fields.text("order"),
        since_ms: fields.time("since"),
        until_ms: fields.time("until"),
        ..DeadLetterFilter::default()
    };
    let all = fields.flag("all");
    if fields.is_sound() && filter == DeadLetterFilter::default() && !all {
        fields.problem("", "must say which dead letters; for every open one, `\"all\": true`");
    }
    fields.finish("a clear wish").map(|()| (filter, rate))
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

/// Jobs of this host, newest first.
#[utoipa::path(get, path = "/dead-letters/jobs", tag = "dead letters", responses((status = 200, body = Items<JobView>)))]
pub(in crate::http) async fn list_jobs(State(app): State<Shared>) -> Json<Items<JobView>> {
    Json(Items { items: app.dead_letters().jobs().iter().map(|job| JobView::of(job)).collect() })
}

/// How far a job is.
#[utoipa::path(get, path = "/dead-letters/jobs/{id}", tag = "dead letters", params(JobId),
    responses((status = 200, body = JobView), (status = 404, description = "This host knows no such job", body = Problem)))]
pub(in crate::http) async fn show_job(
    State(app): State<Shared>,
    Path(JobId(id)): Path<JobId>,
) -> Answer<Json<JobView>> {
    Ok(Json(JobView::of(&*find(&app, &id)?)))
}

/// Cancels a job; what it did not settle is still open.
#[utoipa::path(post, path = "/dead-letters/jobs/{id}/cancel", tag = "dead letters", params(JobId),
    responses((status = 202, description = "It ends", body = JobView), (status = 404, description = "This host knows no such job", body = Problem)))]
pub(in crate::http) async fn cancel_job(
    State(app): State<Shared>,
    Path(JobId(id)): Path<JobId>,
) -> Answer<Response> {
    let job = find(&app, &id)?;
    job.cancel();
    Ok((StatusCode::ACCEPTED, Json(JobView::of(&job))).into_response())
}

fn find(app: &Shared, id: &str) -> Answer<Arc<Job>> {
    app.dead_letters().job(id).ok_or_else(|| {
        Problem::not_found(format!("this host knows no job `{id}`: jobs end with their host"))
    })
}

impl JobView {
    fn of(job: &Job) -> Self {
        let (action, edit, reason) = match &job.task.work {
            Work::Replay { patch } => ("replay", patch.clone(), None),
            Work::Discard { reason } => ("discard", None, Some(reason.clone())),
        };
        let DeadLetterFilter { stage, code, group, order, since_ms, until_ms, .. } =
            job.task.filter.clone();
        Self {
            id: job.id.clone(),
            action,
            edit,
            reason,
            rate_per_second: job.task.rate_per_second.get(),
            filter: JobFilter { stage, code, group, order, since_ms, until_ms },
            status: job.status(),
        }
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
