//! `GET /audit`: what operators did; and who sends a request, for that log.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Extensions;
use axum::middleware::Next;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::openapi::{instant_schema, order_schema, page_size_schema, position_schema};
use super::problem::Answer;
use super::request::{QueryValidator, ValidQuery};
use crate::app::App;
use crate::domain::access::{PrincipalKind, Requester};
use crate::domain::actor::Actor;
use crate::store::{
    AuditFilter, AuditOutcome, AuditPage, AuditPosition, AuditRecord, RecordedActor,
};

/// Who sends a request, for the records of what it does.
fn actor_of(extensions: &Extensions) -> Actor {
    let Some(Requester { principal, address }) = extensions.get() else {
        return Actor::anonymous();
    };
    let actor = match principal.kind() {
        PrincipalKind::Anonymous => Actor::anonymous(),
        kind => Actor::new(kind.name(), principal.id()),
    };
    actor.at(*address)
}

/// Lets a request act as its sender.
pub(super) async fn act(request: Request, next: Next) -> Response {
    let actor = actor_of(request.extensions());
    App::acting_as(actor, next.run(request)).await
}

/// Which records.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListAudit {
    /// Filter by the id of the actor.
    actor: Option<String>,
    /// Filter by action, such as `stage.pause`.
    action: Option<String>,
    /// Filter by object, such as `stage/payment`.
    object: Option<String>,
    /// Filter by time: at or after.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Filter by time: before.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the previous page: the position after which the page starts.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Order of the records. A cursor is a position, and valid in both.
    #[param(schema_with = order_schema)]
    order: Option<String>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLog {
    items: Vec<AuditRecordView>,
    /// The `cursor` of the next page; none at the end.
    next: Option<i64>,
    /// The newest record that retention deleted: the oldest one follows it.
    anchor: AuditPositionView,
    /// The newest record.
    head: AuditPositionView,
}

/// What an operator did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub(crate) struct AuditRecordView {
    /// Position in the log: there are no gaps.
    pos: i64,
    /// Milliseconds since 1970-01-01 UTC.
    at_ms: u64,
    /// The host that did it.
    host: String,
    actor: ActorView,
    /// What was done.
    action: String,
    /// To what.
    object: String,
    /// What it was before.
    #[schema(value_type = Option<Object>)]
    before: Option<Box<RawValue>>,
    /// What it was then.
    #[schema(value_type = Option<Object>)]
    after: Option<Box<RawValue>>,
    /// Why.
    reason: Option<String>,
    outcome: AuditOutcomeView,
    /// SHA-256 over this record and the hash of the one before.
    hash: String,
}

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Actor)]
pub(crate) struct ActorView {
    /// How it was authenticated; `host` and `program` act without a request.
    kind: String,
    id: String,
    /// Where the request came from; none: from no request.
    address: Option<String>,
}

/// Whether something was done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AuditOutcome)]
pub(crate) enum AuditOutcomeView {
    /// It was done.
    Done,
    /// It was refused, or failed: `reason` says why.
    Refused,
}

/// A record's position and hash; position 0 is before the first record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditPosition)]
pub(crate) struct AuditPositionView {
    pos: i64,
    hash: String,
}

impl From<AuditPosition> for AuditPositionView {
    fn from(AuditPosition { pos, hash }: AuditPosition) -> Self {
        Self { pos, hash }
    }
}

impl From<AuditRecord> for AuditRecordView {
    fn from(record: AuditRecord) -> Self {
        let RecordedActor { kind, id, address } = record.actor;
        Self {
            pos: record.pos,
            at_ms: record.at_ms,
            host: record.host,
            actor: ActorView { kind, id, address },
            action: record.action,
            object: record.object,
            before: record.before,
            after: record.after,
            reason: record.reason,
            outcome: match record.outcome {
                AuditOutcome::Done => AuditOutcomeView::Done,
                AuditOutcome::Refused => AuditOutcomeView::Refused,
            },
            hash: record.hash,
        }
    }
}

/// Lists what operators did, oldest first unless `order` is `newest`.
///
/// Each record has a hash over itself and the record before, so that one that was changed or removed is
/// found: `postrider audit verify`.
#[utoipa::path(get, path = "/audit", tag = "audit", params(ListAudit),
    responses((status = 200, body = AuditLog)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    ValidQuery(query): ValidQuery<ListAudit>,
) -> Answer<Json<AuditLog>> {
    let mut validator = QueryValidator::default();
    let filter = AuditFilter {
        since_ms: validator.instant("since", query.since.as_deref()),
        until_ms: validator.instant("until", query.until.as_deref()),
        after: validator.position("cursor", query.cursor),
        direction: validator.parsed("order", query.order.as_deref()).unwrap_or_default(),
        limit: validator.limit(query.limit),
        actor: query.actor,
        action: query.action,
        object: query.object,
    };
    validator.finish()?;
    let AuditPage { records, next, anchor, head } = app.audit_log(filter).await?;
    let items = records.into_iter().map(Into::into).collect();
    Ok(Json(AuditLog { items, next, anchor: anchor.into(), head: head.into() }))
}
