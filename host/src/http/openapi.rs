//! The OpenAPI 3.1 document: what the handlers say of themselves, the bodies that they take apart
//! by hand, and what is true of all.

use serde_json::{Map, Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{
    AnyOfBuilder, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type,
};

use super::lists::{PAGE, PAGE_MAX};
use super::problem::{Kind, MEDIA_TYPE};
use crate::domain::cloud_events::{TYPE_MAX, TYPE_PATTERN};

mod schemas;

/// Where the document is served.
pub(super) const PLACE: &str = "/openapi.json";
/// Where people read it.
pub(super) const PAGE_PLACE: &str = "/docs";

const DESCRIPTION: &str = "Orders, their events and dead letters, and the stages that work on them.\n\n\
    Everything under `/orders`, `/events` and `/products` is served under `/api/v1` as well. Every error is a problem document \
    (RFC 9457) whose `type` this host explains. Times are milliseconds since 1970-01-01 UTC; parameters take RFC 3339, too.";

/// A parameter that is described by hand. It may be left out, unless it is a part of the path.
pub(super) fn parameter(
    place: ParameterIn,
    name: &str,
    description: &str,
    schema: impl Into<Schema>,
) -> Parameter {
    let parameter =
        ParameterBuilder::new().name(name).parameter_in(place).required(Required::False);
    parameter.description(Some(description)).schema(Some(schema.into())).build()
}

/// Any text.
pub(super) fn text_schema() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

/// A time in a query or a header: RFC 3339, or milliseconds since 1970-01-01 UTC.
pub(super) fn instant_schema() -> Schema {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    Schema::AnyOf(AnyOfBuilder::new().item(text).item(position_schema()).build())
}

/// A place in a list, or a number of milliseconds.
pub(super) fn position_schema() -> Object {
    let integer = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
    integer.minimum(Some(0)).maximum(Some(isize::MAX)).build()
}

/// The type of an event that comes in.
pub(super) fn event_type_schema() -> Object {
    let words =
        "Words with dots between them. Types that begin with `postrider.` are the host's own.";
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(words));
    text.pattern(Some(TYPE_PATTERN)).max_length(Some(TYPE_MAX)).build()
}

/// Items of a page.
pub(super) fn page_size_schema() -> Object {
    let integer = ObjectBuilder::new().schema_type(Type::Integer).default(Some(json!(PAGE)));
    integer.minimum(Some(1)).maximum(Some(PAGE_MAX as usize)).build()
}

/// Completes what was collected from the handlers.
pub(super) fn complete(collected: utoipa::openapi::OpenApi) -> Value {
    let mut document = json!(collected);
    document["info"] = json!({
        "title": "Postrider",
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
    });
    document["tags"] = json!([
        { "name": "orders", "description": "Orders and their journeys" },
        { "name": "products", "description": "Stock" },
        { "name": "events", "description": "The event log, and events of other programs" },
        { "name": "dead letters", "description": "What needs a person" },
        { "name": "stages", "description": "How stages stand, and the operators' word" },
        { "name": "plugins", "description": "What runs, and how it hangs together" },
        { "name": "health", "description": "For probes" },
        { "name": "problems", "description": "What errors mean" },
    ]);
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in schemas::by_name() {
        schemas[name] = schema;
    }
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            finish(operation);
        }
    }
    document
}

/// Adds to one operation what is true of every such one.
fn finish(operation: &mut Value) {
    // Handlers are called alike in their modules; the document wants names of their own.
    let (tag, name) = (
        operation["tags"][0].as_str().unwrap_or_default(),
        operation["operationId"].as_str().unwrap_or_default(),
    );
    operation["operationId"] = json!(format!("{}_{name}", tag.replace(' ', "_")));
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) else {
            continue;
        };
        if content.values().any(|media| media["schema"]["$ref"] == "#/components/schemas/Problem") {
            response["content"] = problem();
        }
    }
    let parameters: Vec<String> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| parameter["name"].to_string())
        .collect();
    let has_body = operation.get("requestBody").is_some();
    if has_body {
        let content =
            operation["requestBody"]["content"].as_object().into_iter().flat_map(Map::values);
        let optional =
            content.filter_map(|media| media["schema"]["$ref"].as_str()).any(schemas::is_optional);
        operation["requestBody"]["required"] = json!(!optional);
    }
    let mut more: Vec<(Kind, &str)> = Vec::new();
    if has_body || !parameters.is_empty() {
        more.push((
            Kind::Request,
            "The path, the query, a header or the body cannot be understood",
        ));
    }
    if has_body {
        more.push((Kind::TooLarge, "The body is too large"));
        more.push((Kind::MediaType, "The body has another media type"));
        more.push((Kind::InvalidBody, "The body is understood and does not say what it must, or its `Idempotency-Key` was used before"));
    }
    if operation["tags"] != json!(["health"]) && operation["tags"] != json!(["problems"]) {
        more.push((
            Kind::Unavailable,
            "The store or the broker does not answer, or too much is under way",
        ));
    }
    for (kind, description) in more {
        let status = kind.describe().status;
        let mut response = json!({ "description": description, "content": problem() });
        if kind == Kind::Unavailable {
            response["headers"] = json!({ "Retry-After": { "description": "Seconds", "schema": { "type": "integer" } } });
        }
        operation["responses"][status.to_string()] = response;
    }
}

fn problem() -> Value {
    json!({ MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_what_they_need_is_there() {
        let document = crate::http::document();
        let operations = || {
            document["paths"]
                .as_object()
                .into_iter()
                .flat_map(Map::values)
                .filter_map(Value::as_object)
                .flat_map(Map::values)
        };
        let parameters =
            operations().filter_map(|operation| operation.get("parameters")?.as_array()).flatten();
        let (in_path, elsewhere): (Vec<&Value>, Vec<&Value>) =
            parameters.partition(|parameter| parameter["in"] == "path");
        assert!(in_path.iter().all(|parameter| parameter["required"] == true), "{in_path:?}");
        assert!(elsewhere.iter().all(|parameter| parameter["required"] == false), "{elsewhere:?}");
        let names: BTreeSet<&str> =
            operations().filter_map(|operation| operation["operationId"].as_str()).collect();
        assert_eq!((names.len(), operations().count()), (40, 40), "{names:?}");
        let text = document.to_string();
        for reference in
            text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next())
        {
            assert!(document["components"]["schemas"].get(reference).is_some(), "{reference}");
        }
        assert!(operations().all(|operation| {
            operation["responses"].as_object().is_some_and(|responses| {
                responses.contains_key("200") || responses.contains_key("202")
            })
        }));
    }
}
