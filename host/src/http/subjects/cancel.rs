//! `POST /<path of the kind>/{id}/cancel`: cancels a subject. Repeated, it answers how far the cancel
//! is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::OfKind;
use super::view::{SubjectCancelReceipt, named};
use crate::app::why_not_cancelled;
use crate::domain::access::Requester;
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::request::{Parsed, Reason, SubjectId};
use crate::store::Cancelled;

/// Cancels a subject.
///
/// The stages run their compensations. Repeated, it answers how far the cancel is.
#[utoipa::path(post, path = "/kind/{id}/cancel", tag = "subjects", params(SubjectId),
    request_body = ref("#/components/schemas/Reason"),
    responses(
        (status = 202, description = "Cancelling; some compensations have not completed",
            body = SubjectCancelReceipt,
            headers(("Location" = String, description = "The subject"))),
        (status = 200, description = "Cancelled; every compensation has completed",
            body = SubjectCancelReceipt,
            headers(("Location" = String, description = "The subject"))),
        (status = 404, description = "No subject has this id", body = Problem),
        (status = 409, description = "Too late: `detail` says why", body = Problem),
    ))]
#[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
pub(crate) async fn cancel(
    State(app): State<Shared>,
    requester: Requester,
    trace: TraceContext,
    kind: OfKind,
    Path(SubjectId(id)): Path<SubjectId>,
    Parsed(Reason(reason)): Parsed<Reason>,
) -> Answer<Response> {
    let key = kind.key(&id)?;
    kind.check_owner(&app, &requester, &key).await?;
    let subject = match app.cancel(&key, reason, trace).await? {
        Cancelled::Begun(subject) | Cancelled::Already(subject) => subject,
        Cancelled::Refused(subject) => {
            let why = why_not_cancelled(&kind.0, &subject);
            return Err(Problem::new(Kind::SUBJECT_NOT_CANCELLABLE, why));
        }
        Cancelled::NotFound => return Err(kind.missing(&id)),
    };
    // 200 only when every compensation has completed.
    let completed = kind.0.status.is_fully_cancelled(&subject.status);
    let status = if completed { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = [(header::LOCATION, kind.location(&key))];
    let receipt = named(&SubjectCancelReceipt::from(subject), &kind.0);
    Ok((status, location, Json(receipt)).into_response())
}
