//! The paths and schemas of each kind of subjects, made from the documentation of its handlers.
//!
//! The handlers document a kind called `subject`. For each kind, the paths, the names of schemas and
//! fields, and the words of descriptions become its own; its schema of bodies is added.

use serde_json::{Map, Value, json};

use super::schemas;
use crate::domain::subject_kind::SubjectKind;
use crate::http::subjects::TEMPLATE_PATH;
use crate::http::subjects::view::{BODY, DISPLAY, ID};

/// Schemas of the template; the name of each contains `Subject` once.
const SCHEMAS: [&str; 5] = [
    "Subject",
    "SubjectSummary",
    "SubjectReceipt",
    "SubjectCancelReceipt",
    "Listing_SubjectSummary",
];
/// The schema of a body that is submitted.
const NEW: &str = "NewSubject";
const REFERENCE: &str = "#/components/schemas/";

/// The template, taken out of a document.
pub(super) struct Template {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Template {
    /// Takes the template out of a document.
    pub(super) fn take(document: &mut Value) -> Self {
        let paths = take(&mut document["paths"], |path| path.starts_with(TEMPLATE_PATH));
        let schemas = take(&mut document["components"]["schemas"], |name| SCHEMAS.contains(&name));
        Self { paths, schemas }
    }

    /// Adds the paths and schemas of a kind.
    pub(super) fn describe(&self, kind: &SubjectKind, document: &mut Value) {
        let words = Words::of(kind);
        for (path, operations) in &self.paths {
            let mut operations = operations.clone();
            words.apply(&mut operations);
            let path = path.replacen(TEMPLATE_PATH, &kind.path, 1);
            document["paths"][path] = operations;
        }
        for (name, schema) in &self.schemas {
            let mut schema = schema.clone();
            words.apply(&mut schema);
            name_fields(&mut schema, kind);
            document["components"]["schemas"][words.schema(name)] = schema;
        }
        document["components"]["schemas"][words.schema(NEW)] = schemas::new_subject(kind);
        document["tags"].as_array_mut().into_iter().for_each(|tags| {
            let description = format!("{} and their deliveries", capitalized(&kind.plural));
            tags.push(json!({ "name": kind.plural, "description": description }));
        });
    }
}

/// Takes members out of an object.
fn take(object: &mut Value, picks: impl Fn(&str) -> bool) -> Map<String, Value> {
    let Some(members) = object.as_object_mut() else { return Map::new() };
    let names: Vec<String> = members.keys().filter(|name| picks(name)).cloned().collect();
    names.into_iter().filter_map(|name| members.remove_entry(&name)).collect()
}

/// What the words of the template become.
struct Words {
    /// `a subject`, `A subject`, `subjects`, `subject_id`, `subject`, each with what replaces it.
    phrases: [(&'static str, String); 5],
    plural: String,
    /// In place of `Subject` in the names of schemas.
    type_name: String,
}

impl Words {
    fn of(kind: &SubjectKind) -> Self {
        let (name, plural) = (&kind.name, &kind.plural);
        let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        Self {
            phrases: [
                ("a subject", format!("{article} {name}")),
                ("A subject", format!("{} {name}", capitalized(article))),
                ("subjects", plural.clone()),
                (ID, kind.id.field.clone()),
                ("subject", name.clone()),
            ],
            plural: plural.clone(),
            type_name: name.split('-').map(capitalized).collect(),
        }
    }

    fn schema(&self, name: &str) -> String {
        name.replacen("Subject", &self.type_name, 1)
    }

    /// Replaces words in descriptions, tags and references.
    fn apply(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(item)),
            Value::Object(members) => {
                for (key, member) in members {
                    match (key.as_str(), &mut *member) {
                        ("description" | "summary", Value::String(text)) => {
                            for (phrase, with) in &self.phrases {
                                *text = text.replace(phrase, with);
                            }
                        }
                        ("$ref", Value::String(place)) => self.refer(place),
                        ("tags", tags) => *tags = json!([self.plural]),
                        (_, member) => self.apply(member),
                    }
                }
            }
            _ => {}
        }
    }

    fn refer(&self, place: &mut String) {
        let Some(name) = place.strip_prefix(REFERENCE) else { return };
        if name == NEW || SCHEMAS.contains(&name) {
            *place = format!("{REFERENCE}{}", self.schema(name));
        }
    }
}

/// Gives the fields that depend on the kind their names.
fn name_fields(schema: &mut Value, kind: &SubjectKind) {
    for part in schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        name_fields(part, kind);
    }
    // A listing has the schema of its items in it.
    if let Some(item) = schema.pointer_mut("/properties/items/items") {
        name_fields(item, kind);
    }
    let renamed = |name: &str| match name {
        ID => kind.id.field.clone(),
        BODY => kind.name.clone(),
        other => other.to_owned(),
    };
    let shows = |name: &str| name != DISPLAY || !kind.display.is_empty();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let old = std::mem::take(properties).into_iter();
        let kept = old.filter(|(name, _)| shows(name));
        properties.extend(kept.map(|(name, property)| (renamed(&name), property)));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name.as_str() != Some(DISPLAY));
        for name in required {
            *name = json!(renamed(name.as_str().unwrap_or_default()));
        }
    }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_kind_has_its_own_paths_and_schemas() {
        let text = r#"
            [subjects.document]
            id_field = "number"
            display = ["title"]
            schema = { required = ["title"], properties = { title = { type = "string" } } }
        "#;
        let kinds = Config::from_toml(text).unwrap().kinds().unwrap();
        let document = crate::http::document(&kinds);
        let (paths, schemas) = (&document["paths"], &document["components"]["schemas"]);
        for path in ["/orders", "/orders/{id}/cancel", "/documents", "/documents/{id}/events"] {
            assert!(paths[path].is_object(), "{path}");
        }
        assert_eq!(paths["/documents"]["post"]["operationId"], "documents_create");
        assert_eq!(paths["/documents"]["post"]["summary"], "Submits a document.");
        assert_eq!(paths["/orders"]["post"]["summary"], "Submits an order.");
        let body = &paths["/documents"]["post"]["requestBody"]["content"]["application/json"];
        assert_eq!(body["schema"]["$ref"], "#/components/schemas/NewDocument");
        assert_eq!(schemas["NewDocument"]["properties"]["title"]["type"], "string");
        assert_eq!(schemas["NewDocument"]["required"], json!(["title"]));
        let fields = |name: &str| -> Vec<&String> {
            schemas[name]["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
                .collect()
        };
        assert_eq!(fields("DocumentReceipt"), ["created_at_ms", "number", "status"]);
        assert_eq!(fields("OrderReceipt"), ["created_at_ms", "order_id", "status"]);
        assert!(schemas["DocumentSummary"]["properties"]["display"].is_object());
        assert!(schemas["OrderSummary"]["properties"]["display"].is_null());
        let item = &schemas["Listing_OrderSummary"]["properties"]["items"]["items"];
        assert!(item["properties"]["order_id"].is_object(), "{item}");
        let text = document.to_string();
        assert!(
            !text.contains("\"/kind") && !text.contains("SubjectReceipt"),
            "a template is left"
        );
    }
}
