//! The OpenAPI 3.1 document: collected from the handlers, completed by the schemas of bodies that are
//! checked by hand and by the responses that many operations share.

use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{
    AnyOfBuilder, Array, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{Ref, Required};

use self::kinds::Template;
use super::namespaces;
use super::pages::{PAGE, PAGE_MAX};
use super::prefix::Prefix;
use super::problem::{Kind, MEDIA_TYPE};
use super::table::{BEARER, EXTENSION, SESSION};
use crate::domain::cloud_events::{TYPE_MAX, TYPE_PATTERN};
use crate::domain::subject::KEY_PATTERN;
use crate::domain::subject_kind::SubjectKinds;

mod kinds;
mod schemas;

/// Where the document is served.
pub(super) const PATH: &str = "/openapi.json";
/// The same, relative to the web page.
pub(super) const PATH_FROM_DOCS: &str = "../openapi.json";
/// Where people read it, as a web page.
pub(super) const DOCS_PATH: &str = "/docs";

const DESCRIPTION: &str = "Subjects, their events and dead letters, and the stages that process them.\n\n\
    Everything under the paths of subjects, `/subjects`, `/events` and `/products` is also served \
    under `/api/v1`. Every \
    error is a problem document (RFC 9457) whose `type` this host explains. Times are milliseconds \
    since 1970-01-01 UTC; parameters also accept RFC 3339.";

/// A parameter that is described by hand. It is optional, unless it is part of the path.
pub(super) fn parameter(
    location: ParameterIn,
    name: &str,
    description: &str,
    schema: impl Into<Schema>,
) -> Parameter {
    let parameter =
        ParameterBuilder::new().name(name).parameter_in(location).required(Required::False);
    parameter.description(Some(description)).schema(Some(schema.into())).build()
}

/// Any text.
pub(super) fn text_schema() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

/// The items of a page of recordings.
pub(super) fn recordings_schema() -> Array {
    Array::new(Ref::from_schema_name("Recorded"))
}

/// A time in a query or a header: RFC 3339, or milliseconds since 1970-01-01 UTC.
pub(super) fn instant_schema() -> Schema {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    Schema::AnyOf(AnyOfBuilder::new().item(text).item(position_schema()).build())
}

/// A position in a list, or a number of milliseconds.
pub(super) fn position_schema() -> Object {
    let integer = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
    integer.minimum(Some(0)).maximum(Some(isize::MAX)).build()
}

/// The type of an event of another program.
pub(super) fn event_type_schema() -> Object {
    let description =
        "Words separated by dots. Types that start with `postrider.` are reserved for the host.";
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    text.pattern(Some(TYPE_PATTERN)).max_length(Some(TYPE_MAX)).build()
}

/// The key of a subject.
pub(super) fn subject_schema() -> Object {
    text_schema_with(KEY_PATTERN, "A subject: `<kind>/<id>`, such as `order/123`.")
}

fn text_schema_with(pattern: &str, description: &str) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    text.pattern(Some(pattern)).build()
}

/// The size of a page.
pub(super) fn page_size_schema() -> Object {
    let integer = ObjectBuilder::new().schema_type(Type::Integer).default(Some(json!(PAGE)));
    integer.minimum(Some(1)).maximum(Some(PAGE_MAX as usize)).build()
}

pub(super) fn order_schema() -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).default(Some(json!("oldest")));
    text.enum_values(Some(["oldest", "newest"])).build()
}

/// The document of an API below a prefix. `own_path` is that of its namespace, where the others are
/// not served.
pub(super) fn below(prefix: &Prefix, own_path: &str, document: &Value) -> Json<Value> {
    let mut document = document.clone();
    if let Some(path) = prefix.path() {
        document["servers"] = json!([{ "url": path }]);
        if path.ends_with(own_path)
            && let Some(paths) = document["paths"].as_object_mut()
        {
            paths.remove(namespaces::PATH);
        }
    }
    Json(document)
}

/// Completes the document that was collected from the handlers.
pub(super) fn complete(collected: utoipa::openapi::OpenApi, kinds: &SubjectKinds) -> Value {
    let mut document = json!(collected);
    let template = Template::take(&mut document);
    document["info"] = json!({
        "title": "Postrider",
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
    });
    document["tags"] = json!([
        { "name": "subjects", "description": "Kinds of subjects" },
        { "name": "products", "description": "Stock" },
        { "name": "events", "description": "The event log, and events of other programs" },
        { "name": "chains", "description": "Events that one event led to: their number, stop, resume" },
        { "name": "dead letters", "description": "Events that a stage could not process" },
        { "name": "audit", "description": "What operators did" },
        { "name": "config", "description": "The configuration of a host" },
        { "name": "encryption", "description": "Keys of what is stored, and the erasure of a customer" },
        { "name": "broker", "description": "Keys with which hosts sign their messages" },
        { "name": "hosts", "description": "The live hosts of the namespace" },
        { "name": "stages", "description": "State and control of stages" },
        { "name": "limits", "description": "How much of each limit is used, and by whom" },
        { "name": "plugins", "description": "What runs, and how stages are connected" },
        { "name": "namespaces", "description": "The pipelines of this process" },
        { "name": "keys", "description": "API keys" },
        { "name": "session", "description": "Sessions of browsers" },
        { "name": "health", "description": "Probes and metrics" },
        { "name": "problems", "description": "Explanations of error types" },
    ]);
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in schemas::all() {
        schemas[name] = schema;
    }
    for kind in kinds.iter() {
        template.describe(kind, &mut document);
    }
    for operation in members(&mut document["paths"]).flat_map(members) {
        finish(operation);
    }
    document["components"]["securitySchemes"] = json!({
        BEARER: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`pr_…`), or a JSON Web Token.",
        },
        SESSION: {
            "type": "apiKey",
            "in": "cookie",
            "name": "postrider-<namespace>",
            "description": "The cookie that `POST /session` sets.",
        },
    });
    document
}

/// The document of a host without authentication.
pub(super) fn without_security(mut document: Value) -> Value {
    for operation in members(&mut document["paths"]).flat_map(members) {
        if let Some(operation) = operation.as_object_mut() {
            operation.remove("security");
        }
    }
    if let Some(components) = document["components"].as_object_mut() {
        components.remove("securitySchemes");
    }
    document
}

/// Completes one operation.
fn finish(operation: &mut Value) {
    name(operation);
    for response in members(&mut operation["responses"]) {
        describe_problem(response);
    }
    let has_body = operation.get("requestBody").is_some();
    if has_body {
        let content =
            operation["requestBody"]["content"].as_object().into_iter().flat_map(Map::values);
        let optional =
            content.filter_map(|media| media["schema"]["$ref"].as_str()).any(schemas::is_optional);
        operation["requestBody"]["required"] = json!(!optional);
    }
    for (kind, description) in shared_responses(operation) {
        let mut response = json!({ "description": description, "content": problem() });
        if matches!(kind, Kind::UNAVAILABLE | Kind::TOO_MANY_REQUESTS) {
            response["headers"] = json!({
                "Retry-After": { "description": "Seconds", "schema": { "type": "integer" } },
            });
        }
        operation["responses"][kind.status.as_str()] = response;
    }
}

fn members(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flat_map(Map::values_mut)
}

/// Makes the operation's id unique: handlers of different resources share names.
fn name(operation: &mut Value) {
    let tag = operation["tags"][0].as_str().unwrap_or_default().replace(' ', "_");
    let name = operation["operationId"].as_str().unwrap_or_default();
    operation["operationId"] = json!(format!("{tag}_{name}"));
}

/// Gives a response that is a problem document its media type.
fn describe_problem(response: &mut Value) {
    let Some(content) = response.get("content").and_then(Value::as_object) else { return };
    if content.values().any(|media| media["schema"]["$ref"] == "#/components/schemas/Problem") {
        response["content"] = problem();
    }
}

/// The errors that every operation with parameters, with a body, or behind the limits may answer.
fn shared_responses(operation: &Value) -> Vec<(Kind, &'static str)> {
    let has_body = operation.get("requestBody").is_some();
    let has_parameters =
        operation["parameters"].as_array().is_some_and(|parameters| !parameters.is_empty());
    let limited =
        !["health", "namespaces", "problems"].iter().any(|tag| operation["tags"][0] == **tag);
    let mut responses = Vec::new();
    if operation.get(EXTENSION).is_some() {
        responses.push((Kind::UNAUTHENTICATED, "No credentials, or invalid ones"));
        responses.push((Kind::FORBIDDEN, "A permission is missing: `detail` names it"));
        responses
            .push((Kind::TOO_MANY_REQUESTS, "The address or the principal sent too many requests"));
    }
    if has_body || has_parameters {
        responses
            .push((Kind::BAD_REQUEST, "The path, the query, a header or the body is malformed"));
    }
    if has_body {
        responses.push((Kind::BODY_TOO_LARGE, "The body is too large"));
        responses.push((Kind::UNSUPPORTED_MEDIA_TYPE, "The body has an unsupported media type"));
        responses.push((
            Kind::INVALID_BODY,
            "The body is invalid, or its `Idempotency-Key` was used with a different request",
        ));
    }
    if limited {
        responses.push((
            Kind::UNAVAILABLE,
            "The store or the broker does not answer, or the host is at a limit",
        ));
    }
    responses
}

fn problem() -> Value {
    json!({ MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::console;

    #[test]
    fn operation_ids_are_unique_and_references_resolve() {
        let document =
            crate::http::document(&crate::config::Config::default().kinds().expect("valid"));
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
        assert_eq!((names.len(), operations().count()), (66, 66), "{names:?}");
        let text = document.to_string();
        for reference in
            text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next())
        {
            assert!(document["components"]["schemas"].get(reference).is_some(), "{reference}");
        }
        assert!(operations().all(|operation| {
            operation["responses"]
                .as_object()
                .is_some_and(|responses| responses.keys().any(|status| status.starts_with('2')))
        }));
    }

    #[test]
    fn no_kind_can_take_a_path_or_a_tag_of_the_api() {
        let document = crate::http::document(&SubjectKinds::default());
        let reserved = crate::config::RESERVED_SEGMENTS;
        let paths =
            document["paths"].as_object().into_iter().flatten().map(|(path, _)| path.as_str());
        let tags = document["tags"].as_array().into_iter().flatten();
        let tags = tags.filter_map(|tag| tag["name"].as_str()).filter(|tag| !tag.contains(' '));
        for path in paths.chain(tags).chain([DOCS_PATH, console::PATH, "/api/v1"]) {
            let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            assert!(reserved.contains(&segment), "{path}");
        }
    }
}
