//! Path parameters, each with its description and schema for the OpenAPI document.

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::http::openapi::{event_type_schema, parameter, position_schema, text_schema};

/// Defines one extractor for each path parameter.
macro_rules! path_parameters {
    ($($type:ident($of:ty) is $name:literal: $description:literal, $schema:expr;)*) => {$(
        #[doc = $description]
        #[derive(Deserialize)]
        pub(crate) struct $type(pub(crate) $of);

        impl IntoParams for $type {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![parameter(ParameterIn::Path, $name, $description, $schema)]
            }
        }
    )*};
}

path_parameters! {
    SubjectId(String) is "id": "The subject's id", text_schema();
    EventId(String) is "name": "The event's id", text_schema();
    CorrelationId(String) is "correlation": "The id of the chain's first event", text_schema();
    EventType(String) is "name": "The event's type", event_type_schema();
    DeadLetterId(i64) is "id": "The dead letter's id", position_schema();
    JobId(String) is "id": "The job's id", text_schema();
    MessageKeyId(String) is "key": "The key's name, as in `GET /broker/keys`", text_schema();
    KeyId(String) is "id": "The key's id", text_schema();
    StageName(String) is "stage": "The stage's name", text_schema();
    Sku(String) is "sku": "The product's SKU", text_schema();
}
