//! The kinds of subjects that the configuration declares, and the kind that is built in.
//!
//! `[subjects.<name>]` declares a kind; every key has a default. `order` is there unless
//! `subjects.order.enabled = false` removes it. What a section leaves out comes from its shape and name,
//! see [`SubjectConfig::kind`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::body_schema::BodySchema;
use crate::domain::body_shape::{BodyShape, IdRule};
use crate::domain::event::{DEAD_LETTERED, HOST_EVENT_PREFIX, topic_problem};
use crate::domain::name::is_name;
use crate::domain::subject_kind::{SubjectKind, SubjectKinds};
use crate::domain::subject_status::{CancelRules, StatusRules, Transition};

mod order;

/// First segments of the paths that the API serves itself, and its tags.
pub const RESERVED_SEGMENTS: [&str; 24] = [
    "api",
    "audit",
    "broker",
    "chains",
    "config",
    "console",
    "dead-letters",
    "docs",
    "encryption",
    "events",
    "health",
    "hosts",
    "keys",
    "limits",
    "metrics",
    "namespaces",
    "plugins",
    "problems",
    "products",
    "ready",
    "session",
    "stages",
    "subjects",
    "topology",
];
/// Fields that the API adds to subjects.
const VIEW_FIELDS: [&str; 8] = [
    "created_at_ms",
    "customer",
    "display",
    "next",
    "status",
    "timeline",
    "unreadable",
    "updated_at_ms",
];

/// A kind of subjects, in [`Config::subjects`](super::Config::subjects).
///
/// ```
/// use postrider::{Config, SubjectConfig};
///
/// let mut config = Config::default();
/// let document = SubjectConfig { path: Some("/library".into()), ..SubjectConfig::default() };
/// config.subjects.insert("document".to_owned(), document);
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubjectConfig {
    /// `false` removes the kind.
    pub enabled: bool,
    /// The name of several subjects; default: the kind's name and `s`.
    pub plural: Option<String>,
    /// Where the API serves them: `/` and a name; default: `/` and the plural.
    pub path: Option<String>,
    /// How bodies are read: `plain`, or `order` for the bodies of orders.
    pub body: Option<BodyShape>,
    /// The field of the body that holds the id; default: the kind's name and `_id`.
    pub id_field: Option<String>,
    /// A regular expression that ids have to match.
    pub id_pattern: Option<String>,
    /// The field of the body that names the customer; default: none.
    pub customer_field: Option<String>,
    /// JSON Schema of bodies: a table, or the path of a file.
    pub schema: Option<SchemaSource>,
    /// Type of the first event; default: the kind's name and `.created`.
    pub first_event: Option<String>,
    /// Type of the event that cancels a subject; default: the kind's name and `.cancelled`.
    pub cancel_event: Option<String>,
    /// Topic patterns of events of other programs that name a subject by its id alone, beside those of
    /// the status table and of types that begin with the kind's name.
    pub claims: Vec<String>,
    /// Which events move a subject to which status.
    pub status: Option<StatusTable>,
    /// Retention period in milliseconds; 0 keeps subjects forever; default: `retention.max_age_ms`.
    pub max_age_ms: Option<u64>,
    /// Fields of the body that lists show.
    pub display: Vec<String>,
}

impl Default for SubjectConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            plural: None,
            path: None,
            body: None,
            id_field: None,
            id_pattern: None,
            customer_field: None,
            schema: None,
            first_event: None,
            cancel_event: None,
            claims: Vec::new(),
            status: None,
            max_age_ms: None,
            display: Vec::new(),
        }
    }
}

/// Where the JSON Schema of a kind is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "a table with the schema, or the path of a file")]
pub enum SchemaSource {
    /// A file, relative to the working directory.
    File(PathBuf),
    /// The schema itself.
    Inline(BTreeMap<String, Value>),
}

/// The status table of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusTable {
    /// Transitions by event type.
    pub transitions: BTreeMap<String, Transition>,
    /// Statuses that only a transition naming them can leave.
    #[serde(default)]
    pub terminal: BTreeSet<String>,
    /// What still runs when a subject is cancelled.
    #[serde(default)]
    pub cancel: CancelTable,
}

/// What still runs when a subject is cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CancelTable {
    /// Topic patterns of compensation events; default: the kind's cancel event.
    pub compensations: Option<Vec<String>>,
    /// Stages that receive every event of a cancelled subject.
    pub observers: Vec<String>,
    /// The status when every compensation has completed; default: `cancelled`.
    pub done: Option<String>,
}

/// The kinds that are there without a configuration.
pub(super) fn built_in() -> BTreeMap<String, SubjectConfig> {
    BTreeMap::from([(order::NAME.to_owned(), SubjectConfig::default().filled(order::NAME))])
}

/// The status table of a kind that declares none, and none of its events.
pub(super) fn default_table(name: &str) -> StatusTable {
    table_with(name, &format!("{name}.created"), &format!("{name}.cancelled"))
}

/// The status table of a kind that declares none.
fn table_with(name: &str, first_event: &str, cancel_event: &str) -> StatusTable {
    match name {
        order::NAME => order::table(),
        _ => plain_table(name, first_event, cancel_event),
    }
}

/// A table for kinds whose subjects begin, fail, and are completed or cancelled.
fn plain_table(name: &str, first_event: &str, cancel_event: &str) -> StatusTable {
    let transition = |status: &str, from: Option<&[&str]>| Transition {
        status: status.to_owned(),
        from: from.map(|from| from.iter().map(ToString::to_string).collect()),
    };
    StatusTable {
        transitions: BTreeMap::from([
            (first_event.to_owned(), transition("received", Some(&[]))),
            (format!("{name}.completed"), transition("completed", None)),
            (cancel_event.to_owned(), transition("cancelling", Some(&["received", "failed"]))),
            (DEAD_LETTERED.to_owned(), transition("failed", None)),
        ]),
        terminal: BTreeSet::from(["completed".to_owned()]),
        cancel: CancelTable::default(),
    }
}

impl StatusTable {
    fn rules(self, first_event: String, cancel_event: String) -> StatusRules {
        let CancelTable { compensations, observers, done } = self.cancel;
        StatusRules {
            first_event,
            cancel_event,
            transitions: self.transitions,
            terminal: self.terminal,
            cancel: CancelRules {
                compensations: compensations.unwrap_or_default(),
                observers,
                done: done.unwrap_or_default(),
            },
        }
    }
}

/// The enabled kinds of a configuration; adds every problem of them to `problems`, and leaves out the
/// kinds that have one.
pub(super) fn kinds(
    declared: &BTreeMap<String, SubjectConfig>,
    problems: &mut Vec<String>,
) -> SubjectKinds {
    let mut kinds = Vec::new();
    for (name, config) in declared.iter().filter(|(_, config)| config.enabled) {
        kinds.extend(config.kind(name, problems));
    }
    SubjectKinds::new(kinds).unwrap_or_else(|clashes| {
        problems.extend(clashes);
        SubjectKinds::default()
    })
}

impl SubjectConfig {
    /// The section with every default, for a kind of this name.
    pub(super) fn filled(mut self, name: &str) -> Self {
        let body = *self.body.get_or_insert(match name {
            order::NAME => BodyShape::Order,
            _ => BodyShape::Plain,
        });
        if body.fields().is_none() {
            let id_field = || format!("{}_id", name.replace('-', "_"));
            self.id_field.get_or_insert_with(id_field);
        }
        let plural = self.plural.get_or_insert_with(|| format!("{name}s")).clone();
        self.path.get_or_insert_with(|| format!("/{plural}"));
        let first = self.first_event.get_or_insert_with(|| format!("{name}.created")).clone();
        let cancelled =
            self.cancel_event.get_or_insert_with(|| format!("{name}.cancelled")).clone();
        let table = self.status.get_or_insert_with(|| table_with(name, &first, &cancelled));
        let cancel = &mut table.cancel;
        cancel.compensations.get_or_insert_with(|| match name {
            order::NAME => order::compensations(),
            _ => vec![cancelled],
        });
        cancel.done.get_or_insert_with(|| "cancelled".to_owned());
        self
    }

    /// The kind that this section declares; none when it is invalid, and `problems` say why.
    fn kind(&self, name: &str, problems: &mut Vec<String>) -> Option<SubjectKind> {
        let place = format!("subjects.{name}");
        if !is_name(name) {
            problems.push(format!("{place}: the name must match [a-z][a-z0-9-]{{0,39}}"));
            return None;
        }
        let before = problems.len();
        let full = self.clone().filled(name);
        let body = full.body.unwrap_or_default();
        let (id_field, customer_field) = full.fields(name, body, problems);
        let (plural, path) = (full.plural.unwrap_or_default(), full.path.unwrap_or_default());
        check_names(name, &plural, &id_field, problems);
        problems.extend(path_problem(&path).map(|why| format!("{place}.path: `{path}` {why}")));
        let first_event = full.first_event.unwrap_or_default();
        let cancel_event = full.cancel_event.unwrap_or_default();
        for (key, event_type) in [("first_event", &first_event), ("cancel_event", &cancel_event)] {
            if let Some(why) = type_problem(event_type) {
                problems.push(format!("{place}.{key}: the event type `{event_type}` {why}"));
            }
        }
        let table = full.status.expect("a filled section has a table");
        let status = table.rules(first_event.clone(), cancel_event.clone());
        status.validate(&format!("{place}.status"), problems);
        for pattern in &self.claims {
            if let Some(why) = topic_problem(pattern) {
                problems.push(format!("{place}.claims: the event type `{pattern}` {why}"));
            }
        }
        let pattern = self.id_pattern.as_deref();
        let pattern = pattern.and_then(|pattern| compile(pattern, &place, problems));
        let schema = self.schema(&place, problems);
        (problems.len() == before).then(|| SubjectKind {
            name: name.to_owned(),
            plural,
            path,
            id: IdRule { field: id_field, pattern },
            customer_field,
            first_event,
            cancel_event,
            body,
            schema,
            status,
            claims: self.claims.clone(),
            max_age_ms: self.max_age_ms,
            display: self.display.clone(),
        })
    }

    /// The fields of the id and of the customer.
    fn fields(
        &self,
        name: &str,
        body: BodyShape,
        problems: &mut Vec<String>,
    ) -> (String, Option<String>) {
        let Some((id, customer)) = body.fields() else {
            let named = [("id_field", &self.id_field), ("customer_field", &self.customer_field)];
            for (key, _) in named.into_iter().filter(|(_, field)| field.as_deref() == Some("")) {
                problems.push(format!("subjects.{name}.{key}: name a field of the body"));
            }
            return (self.id_field.clone().unwrap_or_default(), self.customer_field.clone());
        };
        for (key, field) in [("id_field", &self.id_field), ("customer_field", &self.customer_field)]
        {
            if field.is_some() {
                problems.push(format!(
                    "subjects.{name}.{key}: cannot be set, because `body` is `order`: its bodies have \
                     `{id}` and `{customer}`"
                ));
            }
        }
        (id.to_owned(), Some(customer.to_owned()))
    }

    fn schema(&self, place: &str, problems: &mut Vec<String>) -> Option<BodySchema> {
        let document = match self.schema.as_ref()? {
            SchemaSource::Inline(members) => Value::Object(
                members.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            ),
            SchemaSource::File(path) => match read(path) {
                Ok(document) => document,
                Err(why) => {
                    problems.push(format!("{place}.schema: {}: {why}", path.display()));
                    return None;
                }
            },
        };
        match BodySchema::compile(document) {
            Ok(schema) => Some(schema),
            Err(found) => {
                problems.extend(found.into_iter().map(|one| {
                    let pointer = if one.pointer.is_empty() { "/" } else { one.pointer.as_str() };
                    format!("{place}.schema: at {pointer}: {}", one.detail)
                }));
                None
            }
        }
    }
}

fn read(path: &std::path::Path) -> Result<Value, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    crate::domain::json::parse(&text).map_err(|error| format!("is not valid JSON: {error}"))
}

fn compile(pattern: &str, place: &str, problems: &mut Vec<String>) -> Option<regex::Regex> {
    match regex::Regex::new(pattern) {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            let why = error.to_string().lines().last().unwrap_or_default().to_owned();
            problems.push(format!(
                "{place}.id_pattern: `{pattern}` is not a regular expression: {why}"
            ));
            None
        }
    }
}

/// Reports names that the API uses otherwise.
fn check_names(name: &str, plural: &str, id_field: &str, problems: &mut Vec<String>) {
    let place = format!("subjects.{name}");
    if !is_name(plural) || RESERVED_SEGMENTS.contains(&plural) {
        let reserved = RESERVED_SEGMENTS.join(", ");
        problems.push(format!(
            "{place}.plural: `{plural}` must match [a-z][a-z0-9-]{{0,39}} and be none of {reserved}"
        ));
    }
    if VIEW_FIELDS.contains(&name) {
        problems.push(format!(
            "{place}: the API shows a body in a field with the kind's name, and `{name}` is another \
             field: use another name"
        ));
    }
    if VIEW_FIELDS.contains(&id_field) || id_field == name {
        problems.push(format!(
            "{place}.id_field: `{id_field}` is another field of subjects in the API: use another"
        ));
    }
}

/// Why a type cannot be that of a kind's own events.
fn type_problem(event_type: &str) -> Option<&'static str> {
    topic_problem(event_type).or_else(|| {
        if event_type.starts_with(HOST_EVENT_PREFIX) {
            Some("is reserved for the host")
        } else if event_type.contains(['*', '#']) {
            Some("is a pattern: name one type")
        } else {
            None
        }
    })
}

/// Why a path cannot be that of a kind.
fn path_problem(path: &str) -> Option<&'static str> {
    let Some(segment) = path.strip_prefix('/').filter(|segment| is_name(segment)) else {
        return Some("must be `/` and a name that matches [a-z][a-z0-9-]{0,39}");
    };
    RESERVED_SEGMENTS.contains(&segment).then_some("is a path of the API itself: use another")
}

#[cfg(test)]
mod tests;
