//! `/encryption`: the keys of what is stored, and the erasure of a customer.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::problem::{Answer, Problem};
use super::request::{Fields, Parsed, RequestBody};
use crate::app::{EncryptionReport, ErasureRequest};
use crate::domain::json::whole;
use crate::store::{Erased, Rewrapped};

/// How what is stored is encrypted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Encryption)]
pub(crate) struct EncryptionView {
    /// The id of the key that wraps what is new; null: nothing is encrypted.
    primary: Option<String>,
    /// The keys of this host, and those that the store needs.
    keys: Vec<WrappingKeyView>,
}

/// A key that wraps the keys of subjects.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WrappingKey)]
pub(crate) struct WrappingKeyView {
    id: String,
    /// Whether this host has it. What a missing key wraps cannot be read.
    present: bool,
    /// Keys of subjects, and shared ones, that it wraps. A key that wraps none can be removed.
    wraps: u64,
}

impl From<EncryptionReport> for EncryptionView {
    fn from(EncryptionReport { primary, ring, used }: EncryptionReport) -> Self {
        let wraps = |id: &str| used.iter().find(|one| one.id == id).map_or(0, |one| one.count);
        let mut keys: Vec<WrappingKeyView> = ring
            .iter()
            .map(|id| WrappingKeyView { id: id.clone(), present: true, wraps: wraps(id) })
            .collect();
        let missing = used.iter().filter(|one| !ring.contains(&one.id));
        keys.extend(missing.map(|one| WrappingKeyView {
            id: one.id.clone(),
            present: false,
            wraps: one.count,
        }));
        Self { primary, keys }
    }
}

/// Where a batch begins.
pub(crate) struct RewrapBatch(i64);

impl RequestBody for RewrapBatch {
    const NAME: &'static str = "batch";
    const FIELDS: &'static [&'static str] = &["after"];

    fn take(fields: &mut Fields) -> Self {
        let Some(given) = fields.take("after") else { return Self(0) };
        let after = whole(&given).and_then(|after| i64::try_from(after).ok());
        Self(after.unwrap_or_else(|| {
            fields.problem("/after", "must be the `next` of the batch before");
            0
        }))
    }
}

/// What one batch wrapped again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rewrapped)]
pub(crate) struct RewrappedView {
    /// Keys that the primary key now wraps.
    wrapped: u64,
    /// Keys that could not be unwrapped, because the key that wraps them is missing.
    lost: u64,
    /// `after` of the next batch; null: this was the last one.
    next: Option<i64>,
}

impl From<Rewrapped> for RewrappedView {
    fn from(Rewrapped { wrapped, lost, next }: Rewrapped) -> Self {
        Self { wrapped, lost, next }
    }
}

impl RequestBody for ErasureRequest {
    const NAME: &'static str = "erasure";
    const FIELDS: &'static [&'static str] = &["customer", "kind", "reason"];

    fn take(fields: &mut Fields) -> Self {
        let customer = fields.text("customer").unwrap_or_default();
        if customer.is_empty() && fields.is_valid() {
            fields.problem("/customer", "is required: the customer's id, as in the bodies");
        }
        Self { customer, kind: fields.text("kind"), reason: fields.reason() }
    }
}

/// What one batch erased.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Erased)]
pub(crate) struct ErasedView {
    /// Subjects.
    subjects: u64,
    /// Whether there may be further ones: send the request again.
    more: bool,
    /// Subjects that were not erased because something of them has to follow: finish or cancel them
    /// first.
    unfinished: Vec<String>,
}

impl From<Erased> for ErasedView {
    fn from(Erased { subjects, more, unfinished }: Erased) -> Self {
        Self { subjects, more, unfinished: unfinished.into_iter().map(Into::into).collect() }
    }
}

/// Shows which keys encrypt what is stored.
#[utoipa::path(get, path = "/encryption", tag = "encryption",
    responses((status = 200, body = EncryptionView)))]
pub(crate) async fn show(State(app): State<Shared>) -> Answer<Json<EncryptionView>> {
    Ok(Json(app.encryption().await?.into()))
}

/// Wraps the keys of up to 2,000 subjects again with the primary key, after it has changed.
#[utoipa::path(post, path = "/encryption/rewrap", tag = "encryption",
    request_body = ref("#/components/schemas/RewrapBatch"),
    responses((status = 200, body = RewrappedView)))]
pub(crate) async fn rewrap(
    State(app): State<Shared>,
    Parsed(RewrapBatch(after)): Parsed<RewrapBatch>,
) -> Answer<Json<RewrappedView>> {
    Ok(Json(app.rewrap_keys(after).await?.into()))
}

/// Erases up to 500 finished subjects of a customer, for ever: bodies, events' data, recordings,
/// state and the texts of failures. Which events there were, and when, remains.
#[utoipa::path(post, path = "/encryption/erase", tag = "encryption",
    request_body = ref("#/components/schemas/Erasure"),
    responses(
        (status = 200, body = ErasedView),
        (status = 404, description = "There is no such kind", body = Problem),
    ))]
pub(crate) async fn erase(
    State(app): State<Shared>,
    Parsed(request): Parsed<ErasureRequest>,
) -> Answer<Json<ErasedView>> {
    if let Some(kind) = &request.kind
        && app.kinds().named(kind).is_none()
    {
        return Err(Problem::not_found(app.kinds().unknown(kind)));
    }
    Ok(Json(app.erase(request).await?.into()))
}
