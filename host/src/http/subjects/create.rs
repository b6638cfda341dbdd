//! `POST /<path of the kind>`: submits a subject.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::OfKind;
use super::view::{SubjectReceipt, named};
use crate::app::{Submission, SubmitError, Submitted};
use crate::domain::access::Requester;
use crate::domain::steps::count_json_written;
use crate::domain::subject_kind::SubjectKind;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{IdempotencyKey, JsonBody, Schedule};
use crate::store::Subject;

/// Submits a subject.
///
/// An accepted subject is durable, and its first event is on the way to the stages. The same
/// `subject_id` with the same body returns the stored subject.
#[utoipa::path(post, path = "/kind", tag = "subjects", params(IdempotencyKey, Schedule),
    request_body = ref("#/components/schemas/NewSubject"),
    responses(
        (status = 202, description = "Accepted", body = SubjectReceipt,
            headers(("Location" = String, description = "The subject"))),
        (status = 200, description = "The same subject was accepted before", body = SubjectReceipt,
            headers(("Location" = String, description = "The subject"))),
        (status = 409, description = "A subject with this id and a different body exists",
            body = Problem),
    ))]
#[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
pub(crate) async fn create(
    State(app): State<Shared>,
    requester: Requester,
    trace: TraceContext,
    kind: OfKind,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    Schedule(due_at_ms): Schedule,
    JsonBody(body): JsonBody,
) -> Answer<Response> {
    let has_key = idempotency_key.is_some();
    let owner = requester.owner().map(str::to_owned);
    let submission = Submission { trace: Some(trace), idempotency_key, due_at_ms, owner };
    let submitted = app.accept(&kind.0, body, submission).await;
    let (status, subject) = match submitted.map_err(|error| refusal(&kind.0, error))? {
        // What others submitted is not shown, not even its status.
        Submitted::Duplicate(subject) if !requester.may_see(&app, &subject) => {
            let key = subject.key;
            return Err(refusal(&kind.0, SubmitError::Conflict { key }));
        }
        Submitted::New(subject) => (StatusCode::ACCEPTED, subject),
        // A request that is repeated under its key gets the answer that it got at first.
        Submitted::Duplicate(subject) if has_key => {
            let status = kind.0.initial_status().to_owned();
            (StatusCode::ACCEPTED, Subject { status, ..subject })
        }
        Submitted::Duplicate(subject) => (StatusCode::OK, subject),
    };
    let location = [(header::LOCATION, kind.location(&subject.key))];
    count_json_written();
    let receipt = named(&SubjectReceipt::from(subject), &kind.0);
    Ok((status, location, Json(receipt)).into_response())
}

fn refusal(kind: &SubjectKind, error: SubmitError) -> Problem {
    match error {
        SubmitError::Invalid(errors) => Problem::invalid(&kind.name, errors),
        SubmitError::Conflict { .. } => Problem::new(Kind::SUBJECT_EXISTS, error.to_string()),
        SubmitError::UnknownKind(why) => Problem::not_found(why),
        SubmitError::TooLarge { bytes, limit } => Problem::too_large_for_broker(bytes, limit),
        // Of callers in the process only.
        SubmitError::Serialize(_) | SubmitError::OtherDatabase => Problem::internal(),
        SubmitError::KeyReused => Problem::key_reused(),
        SubmitError::Store(error) => error.into(),
    }
}
