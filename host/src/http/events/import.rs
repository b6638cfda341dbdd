//! `POST /events/import`: takes the events of an exported log, those of hosts and stages included.
//!
//! An operator's route: unlike `POST /events` it admits the host's own sources, which outsiders must
//! not use. It is not served under `/api/v1`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::ingest::check;
use super::receipt::{BatchReceipt, accept_all};
use crate::domain::cloud_events::BATCH;
use crate::domain::cloud_events::ingress::{self, Mode};
use crate::domain::trace_context::TraceContext;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Payload, content_type};

/// Imports events that a host exported.
///
/// Events keep their sources, also those of hosts and stages. Types that start with `postrider.` are
/// refused: leave such events out.
#[utoipa::path(post, path = "/events/import", tag = "events",
    request_body(content((ref("#/components/schemas/CloudEvents") = "application/cloudevents-batch+json"))),
    responses((status = 202, description = "Accepted", body = BatchReceipt)))]
pub(crate) async fn import(
    State(app): State<Shared>,
    trace: TraceContext,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Answer<Response> {
    if Mode::of(content_type(&headers).unwrap_or_default())? != Mode::Batch {
        return Err(Problem::media_type(format!("send `{BATCH}`")));
    }
    let batch = ingress::batch(check(&body)?, app.ingress_rules().for_import())
        .map_err(|errors| Problem::invalid("batch of events", errors))?;
    accept_all(&app, batch, &trace).await
}
