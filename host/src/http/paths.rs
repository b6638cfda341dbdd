//! Names in paths.

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::openapi::{event_type_schema, parameter, position_schema, text_schema};

/// Types for the one name that a path has, each with what the document says of it.
macro_rules! names_in_paths {
    ($($type:ident($of:ty) is $name:literal: $description:literal, $schema:expr;)*) => {$(
        #[doc = $description]
        #[derive(Deserialize)]
        pub(super) struct $type(pub(super) $of);

        impl IntoParams for $type {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![parameter(ParameterIn::Path, $name, $description, $schema)]
            }
        }
    )*};
}

names_in_paths! {
    OrderId(String) is "id": "The order's id", text_schema();
    StageName(String) is "stage": "The stage's name", text_schema();
    JobId(String) is "id": "The job's id", text_schema();
    LetterId(i64) is "id": "The dead letter's id", position_schema();
    EventType(String) is "name": "The event's type", event_type_schema();
}
