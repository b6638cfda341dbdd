//! Names in paths.

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::Schema;

use super::openapi::{event_type_schema, parameter, position_schema, text_schema};

/// The order's id.
#[derive(Deserialize)]
pub(super) struct OrderId(pub(super) String);

/// The stage's name.
#[derive(Deserialize)]
pub(super) struct StageName(pub(super) String);

/// The job's id.
#[derive(Deserialize)]
pub(super) struct JobId(pub(super) String);

/// The dead letter's id.
#[derive(Deserialize)]
pub(super) struct LetterId(pub(super) i64);

/// The type of an event.
#[derive(Deserialize)]
pub(super) struct EventType(pub(super) String);

fn in_path(name: &str, description: &str, schema: impl Into<Schema>) -> Vec<Parameter> {
    vec![parameter(ParameterIn::Path, name, description, schema)]
}

impl IntoParams for OrderId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        in_path("id", "The order's id", text_schema())
    }
}

impl IntoParams for StageName {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        in_path("stage", "The stage's name", text_schema())
    }
}

impl IntoParams for JobId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        in_path("id", "The job's id", text_schema())
    }
}

impl IntoParams for LetterId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        in_path("id", "The dead letter's id", position_schema())
    }
}

impl IntoParams for EventType {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        in_path("name", "The event's type", event_type_schema())
    }
}
