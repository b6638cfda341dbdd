//! `GET /subjects`: lists the kinds of subjects.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::subject_kind::SubjectKind;
use crate::http::Shared;
use crate::http::pages::Items;

/// A kind of subjects.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SubjectKind)]
pub(crate) struct KindView {
    /// The first part of the keys of its subjects.
    name: String,
    plural: String,
    /// Where the API serves its subjects.
    path: String,
    /// The field of a body that holds the id.
    id_field: String,
    /// The field of a body that names the customer.
    customer_field: Option<String>,
    /// Type of the first event of a subject.
    first_event: String,
    /// Type of the event that cancels a subject.
    cancel_event: String,
    /// Fields of the body that lists show.
    display: Vec<String>,
}

impl From<&SubjectKind> for KindView {
    fn from(kind: &SubjectKind) -> Self {
        Self {
            name: kind.name.clone(),
            plural: kind.plural.clone(),
            path: kind.path.clone(),
            id_field: kind.id.field.clone(),
            customer_field: kind.customer_field.clone(),
            first_event: kind.first_event.clone(),
            cancel_event: kind.cancel_event.clone(),
            display: kind.display.clone(),
        }
    }
}

/// Lists the kinds of subjects that this host is configured with.
#[utoipa::path(get, path = "/subjects", tag = "subjects",
    responses((status = 200, body = Items<KindView>)))]
pub(crate) async fn kinds(State(app): State<Shared>) -> Json<Items<KindView>> {
    Json(Items::of(app.kinds().iter().map(|kind| &**kind)))
}
