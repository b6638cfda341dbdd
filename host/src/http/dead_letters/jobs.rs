//! `/dead-letters/jobs`: list, show and cancel the jobs of this host.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::filter::stage_of;
use crate::app::dead_letters::{Job, JobFailure, JobState, JobStatus, Work};
use crate::domain::access::{Permission, Requester};
use crate::http::Shared;
use crate::http::pages::Items;
use crate::http::problem::{Answer, Problem};
use crate::http::request::JobId;
use crate::store::DeadLetterFilter;

/// A job of this host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    id: String,
    /// `replay` or `discard`.
    action: &'static str,
    /// Merge patch (RFC 7396) that is applied to each body; null for a principal that may not see
    /// payloads.
    edit: Option<Value>,
    /// Why the dead letters are discarded.
    reason: Option<String>,
    /// Maximum of dead letters per second.
    rate_per_second: u32,
    filter: JobFilter,
    state: JobStateView,
    /// Dead letters that were open when the job was requested.
    total: u64,
    /// Dead letters that it settled.
    done: u64,
    /// Dead letters that were settled by others, or deleted by retention.
    skipped: u64,
    /// Dead letters that it could not settle.
    failed: u64,
    /// The first of those.
    failures: Vec<JobFailureView>,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    started_at_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    ended_at_ms: Option<u64>,
}

/// The dead letters of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobFilter {
    stage: Option<String>,
    code: Option<String>,
    group: Option<String>,
    subject: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    since_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    until_ms: Option<u64>,
}

/// The state of a job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = JobState)]
pub(crate) enum JobStateView {
    /// Other jobs run first.
    Waiting,
    /// Under way.
    Running,
    /// Every dead letter was visited.
    Done,
    /// It was cancelled; what it did not settle is still open.
    Cancelled,
    /// The host stopped; what it did not settle is still open.
    Stopped,
}

/// A dead letter that a job could not settle; it is still open.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobFailure)]
pub(crate) struct JobFailureView {
    /// Id of the dead letter.
    id: i64,
    reason: String,
}

impl From<JobState> for JobStateView {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Waiting => Self::Waiting,
            JobState::Running => Self::Running,
            JobState::Done => Self::Done,
            JobState::Cancelled => Self::Cancelled,
            JobState::Stopped => Self::Stopped,
        }
    }
}

impl From<JobFailure> for JobFailureView {
    fn from(JobFailure { id, reason }: JobFailure) -> Self {
        Self { id, reason }
    }
}

impl JobView {
    /// As a requester sees it: the edit may contain payloads.
    pub(super) fn of(job: &Job, requester: &Requester) -> Self {
        let (action, edit, reason) = match &job.task.work {
            Work::Replay { patch } => {
                ("replay", patch.clone().filter(|_| requester.sees_payloads()), None)
            }
            Work::Discard { reason } => ("discard", None, Some(reason.clone())),
        };
        let DeadLetterFilter { stage, code, group, subject, since_ms, until_ms, .. } =
            job.task.filter.clone();
        let status: JobStatus = job.status();
        Self {
            id: job.id.clone(),
            action,
            edit,
            reason,
            rate_per_second: job.task.rate_per_second.get(),
            filter: JobFilter {
                stage,
                code,
                group,
                subject: subject.map(Into::into),
                since_ms,
                until_ms,
            },
            state: status.state.into(),
            total: status.total,
            done: status.done,
            skipped: status.skipped,
            failed: status.failed,
            failures: status.failures.into_iter().map(Into::into).collect(),
            created_at_ms: status.created_at_ms,
            started_at_ms: status.started_at_ms,
            ended_at_ms: status.ended_at_ms,
        }
    }
}

/// Lists the jobs of this host, newest first.
#[utoipa::path(get, path = "/dead-letters/jobs", tag = "dead letters",
    responses((status = 200, body = Items<JobView>)))]
pub(crate) async fn list_jobs(
    State(app): State<Shared>,
    requester: Requester,
) -> Json<Items<JobView>> {
    let jobs = app.dead_letters().jobs();
    let visible =
        jobs.iter().filter(|job| requester.may(Permission::Read, stage_of(&job.task.filter)));
    Json(Items { items: visible.map(|job| JobView::of(job, &requester)).collect() })
}

/// Shows the progress of a job.
#[utoipa::path(get, path = "/dead-letters/jobs/{id}", tag = "dead letters", params(JobId),
    responses(
        (status = 200, body = JobView),
        (status = 404, description = "This host has no such job", body = Problem),
    ))]
pub(crate) async fn show_job(
    State(app): State<Shared>,
    requester: Requester,
    Path(JobId(id)): Path<JobId>,
) -> Answer<Json<JobView>> {
    let job = find(&app, &id)?;
    requester.require(Permission::Read, stage_of(&job.task.filter))?;
    Ok(Json(JobView::of(&job, &requester)))
}

/// Cancels a job; what it has not settled stays open.
#[utoipa::path(post, path = "/dead-letters/jobs/{id}/cancel", tag = "dead letters", params(JobId),
    responses(
        (status = 202, description = "The job is ending", body = JobView),
        (status = 404, description = "This host has no such job", body = Problem),
    ))]
pub(crate) async fn cancel_job(
    State(app): State<Shared>,
    requester: Requester,
    Path(JobId(id)): Path<JobId>,
) -> Answer<(StatusCode, Json<JobView>)> {
    let job = find(&app, &id)?;
    requester.require(Permission::Operate, stage_of(&job.task.filter))?;
    job.cancel();
    Ok((StatusCode::ACCEPTED, Json(JobView::of(&job, &requester))))
}

fn find(app: &Shared, id: &str) -> Answer<Arc<Job>> {
    app.dead_letters().job(id).ok_or_else(|| {
        Problem::not_found(format!("this host has no job `{id}`; jobs end with their host"))
    })
}
