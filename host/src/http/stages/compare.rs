//! `POST /stages/{stage}/compare`: what another build of a stage's plugin would have decided.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::control::unknown_stage;
use crate::app::{
    COMPARED, COMPARED_MAX, CandidateError, Change, ComparedVersion, ComparisonError,
    ComparisonFilter, ComparisonReport, Differences, Reason, ReplayedEvent,
};
use crate::http::Shared;
use crate::http::openapi::{instant_schema, subject_schema};
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{QueryValidator, StageName, ValidQuery};
use crate::http::uploads::Upload;

/// Which recordings.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Compared {
    /// Compare the events settled at or after this time; an hour ago, unless `subject` is given.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Compare only the events of this subject.
    #[param(schema_with = subject_schema)]
    subject: Option<String>,
    /// Maximum number of events, oldest first.
    #[param(schema_with = limit_schema)]
    limit: Option<u32>,
}

fn limit_schema() -> Object {
    let integer = ObjectBuilder::new().schema_type(Type::Integer).default(Some(json!(COMPARED)));
    integer.minimum(Some(1)).maximum(Some(COMPARED_MAX as usize)).build()
}

impl Compared {
    fn filter(self, stage: String) -> Answer<ComparisonFilter> {
        let mut validator = QueryValidator::default();
        let since_ms = validator.instant("since", self.since.as_deref());
        let subject = validator.parsed("subject", self.subject.as_deref());
        let limit = validator.limit_of(self.limit, COMPARED, COMPARED_MAX);
        validator.finish()?;
        let since_ms = since_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        Ok(ComparisonFilter { stage, since_ms, subject, limit })
    }
}

/// What another build of a plugin would have decided about recorded events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Comparison)]
pub(crate) struct ComparisonView {
    stage: String,
    candidate: ComparedVersionView,
    /// What serves the stage on this host; none: nothing does.
    serving: Option<ComparedVersionView>,
    /// How many events were compared.
    events: u64,
    /// How many with the same decision.
    equal: u64,
    /// How many with another decision.
    different: u64,
    /// How many whose decision is not known, because the candidate read what was not recorded.
    unknown: u64,
    /// How many that could not be run.
    failed: u64,
    /// Whether further events were recorded that were not compared.
    more: bool,
    /// Whether it ended because it took too long.
    timed_out: bool,
    /// The first 50 events with another decision.
    differences: Vec<ComparedDifference>,
    /// The first 50 events whose decision is not known.
    unknowns: Vec<ComparedReason>,
    /// The first 50 events that could not be run.
    failures: Vec<ComparedReason>,
}

/// A version of a plugin.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ComparedVersion)]
pub(crate) struct ComparedVersionView {
    /// Version that the plugin states.
    version: String,
    /// SHA-256 of the file.
    digest: String,
}

impl From<ComparedVersion> for ComparedVersionView {
    fn from(ComparedVersion { version, digest }: ComparedVersion) -> Self {
        Self { version, digest }
    }
}

/// An event that was compared, and what decided about it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ComparedEvent {
    /// The subject that the event belongs to.
    subject_key: Option<String>,
    /// Type of the event.
    #[serde(rename = "type")]
    event_type: String,
    /// Unique for its `source`.
    id: String,
    source: String,
    /// Subject of the event.
    subject: String,
    /// When its delivery was settled, milliseconds since 1970-01-01 UTC.
    settled_at_ms: u64,
    /// Version that settled it.
    version: Option<String>,
    /// Digest of that version.
    digest: Option<String>,
}

impl ComparedEvent {
    /// The event, and what was found about it.
    fn split<T>(entry: ReplayedEvent<T>) -> (Self, T) {
        let ReplayedEvent { subject_key, event, settled_at_ms, version, digest, result } = entry;
        let event = Self {
            subject_key: subject_key.map(|key| key.to_string()),
            event_type: event.event_type,
            id: event.id,
            source: event.source,
            subject: event.subject,
            settled_at_ms,
            version,
            digest,
        };
        (event, result)
    }
}

/// An event with another decision.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ComparedDifference {
    event: ComparedEvent,
    /// How the decisions differ: at least one change, at most 32.
    changes: Vec<ComparedChange>,
}

/// A difference between two decisions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ComparedChange {
    /// What differs: `outcome`, `event 1 /amount`, `state order/7/payment`.
    what: String,
    /// What was recorded, at most 200 characters.
    from: String,
    /// What the candidate decides, at most 200 characters.
    to: String,
}

impl From<ReplayedEvent<Differences>> for ComparedDifference {
    fn from(entry: ReplayedEvent<Differences>) -> Self {
        let (event, Differences { changes }) = ComparedEvent::split(entry);
        let change = |Change { what, from, to }| ComparedChange { what, from, to };
        Self { event, changes: changes.into_iter().map(change).collect() }
    }
}

/// An event without a decision to compare.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ComparedReason {
    event: ComparedEvent,
    /// Why.
    reason: String,
}

impl From<ReplayedEvent<Reason>> for ComparedReason {
    fn from(entry: ReplayedEvent<Reason>) -> Self {
        let (event, Reason { reason }) = ComparedEvent::split(entry);
        Self { event, reason }
    }
}

impl From<ComparisonReport> for ComparisonView {
    fn from(report: ComparisonReport) -> Self {
        let ComparisonReport { stage, candidate, serving, found, timed_out } = report;
        Self {
            stage,
            candidate: candidate.into(),
            serving: serving.map(Into::into),
            events: found.count(),
            equal: found.equal,
            different: found.different,
            unknown: found.unknown,
            failed: found.failed,
            more: found.more,
            timed_out,
            differences: found.differences.into_iter().map(Into::into).collect(),
            unknowns: found.unknowns.into_iter().map(Into::into).collect(),
            failures: found.failures.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ComparisonError> for Problem {
    fn from(error: ComparisonError) -> Self {
        let detail = error.to_string();
        match error {
            ComparisonError::UnknownStage(stage) => unknown_stage(&stage),
            ComparisonError::Busy => Self::new(Kind::COMPARISON_RUNNING, detail),
            ComparisonError::NoRecordings(_) => Self::new(Kind::NO_RECORDINGS, detail),
            ComparisonError::Candidate(CandidateError::Unavailable(_))
            | ComparisonError::Stopping => Self::unavailable(detail),
            ComparisonError::Candidate(_) | ComparisonError::OtherPlugin { .. } => {
                Self::new(Kind::INVALID_PLUGIN, detail)
            }
            ComparisonError::Store(error) => error.into(),
        }
    }
}

/// Compares a candidate, which is another build of a stage's plugin, with what the stage decided: this
/// host runs the recorded events through the candidate, one after another. The candidate reads only what
/// was recorded, and calls nothing. Nothing is stored but a record in the audit log.
///
/// The body is a component, as a file of the plugins folder. A host compares one candidate at a time, for
/// at most a minute after it was compiled. When the client goes away, the comparison ends.
#[utoipa::path(post, path = "/stages/{stage}/compare", tag = "stages",
    params(StageName, Compared),
    request_body(content((ref("#/components/schemas/Component") = "application/wasm"))),
    responses(
        (status = 200, body = ComparisonView),
        (status = 404, description = "No host knows such a stage", body = Problem),
        (status = 409, description = "Another comparison runs, or there are no recordings", body = Problem),
    ))]
pub(crate) async fn compare(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    ValidQuery(query): ValidQuery<Compared>,
    upload: Upload,
) -> Answer<Json<ComparisonView>> {
    let comparison = app.begin_comparison(query.filter(stage)?).await?;
    let component = upload.read().await?;
    Ok(Json(comparison.run(component).await?.into()))
}
