//! Kinds of subjects: what the configuration declares about orders, documents or tickets.
//!
//! Pure. A [`SubjectKind`] is valid by itself, and [`SubjectKinds`] are valid together: no two of them
//! share a path, a plural or an event type, and the ids of their first events cannot be equal. The
//! store, the API and the workers look the kind of a subject up by the first part of its key. Bounds:
//! [`KINDS_MAX`] kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::body_schema::BodySchema;
use super::body_shape::{BodyShape, IdRule, ParsedBody};
use super::event::{HOST_EVENT_PREFIX, topic_matches};
use super::field_error::FieldError;
use super::subject::{SubjectKey, SubjectKeyError, is_id};
use super::subject_status::StatusRules;

mod clashes;
mod status;

/// Most kinds of one host.
pub const KINDS_MAX: usize = 64;

/// One kind of subjects, as the configuration declares it.
#[derive(Debug, Clone)]
pub struct SubjectKind {
    /// Its name, the first part of the keys of its subjects.
    pub name: String,
    /// The name of several, for people and for the tag of the API.
    pub plural: String,
    /// Where the API serves it: `/` and one segment.
    pub path: String,
    /// Where the id is, and what it has to match.
    pub id: IdRule,
    /// The field of the body that names the customer.
    pub customer_field: Option<String>,
    /// Type of the first event of a subject.
    pub first_event: String,
    /// Type of the event that cancels a subject.
    pub cancel_event: String,
    /// How bodies are read.
    pub body: BodyShape,
    /// What bodies have to fulfil.
    pub schema: Option<BodySchema>,
    /// How the status follows from events.
    pub status: StatusRules,
    /// Topic patterns of events of other programs that name a subject of this kind by its id alone.
    pub claims: Vec<String>,
    /// Retention period, counted from the last change, in milliseconds; 0 keeps subjects forever; none:
    /// the host's period.
    pub max_age_ms: Option<u64>,
    /// Fields of the body that lists show.
    pub display: Vec<String>,
}

impl SubjectKind {
    /// The key of the subject with this id; none if no subject of this kind can have it.
    pub fn key(&self, id: &str) -> Option<SubjectKey> {
        is_id(id).then(|| SubjectKey::new(&self.name, id))
    }

    /// The status of a new subject.
    pub fn initial_status(&self) -> &str {
        self.status.initial().unwrap_or("received")
    }

    /// Parses a body as clients send it. Without an id it gets one from `idempotency_key` (the same for
    /// the same key), else a new `UUIDv7`.
    ///
    /// # Errors
    /// Every problem of the body, each with its JSON pointer.
    pub fn parse(
        &self,
        body: Value,
        idempotency_key: Option<&str>,
    ) -> Result<ParsedBody, Vec<FieldError>> {
        let mut problems = self.schema.as_ref().map_or_else(Vec::new, |schema| schema.check(&body));
        let customer = self.customer_field.as_deref();
        match self.body.parse(&self.id, customer, body, idempotency_key) {
            Ok(parsed) if problems.is_empty() => Ok(parsed),
            Ok(_) => Err(problems),
            Err(found) => {
                let more = found
                    .into_iter()
                    .filter(|one| !problems.iter().any(|before| before.pointer == one.pointer));
                let more: Vec<FieldError> = more.collect();
                problems.extend(more);
                Err(problems)
            }
        }
    }

    /// Whether an event of another program belongs to this kind when it names an id alone.
    fn claims_event(&self, event_type: &str) -> bool {
        let own = event_type.strip_prefix(self.name.as_str());
        let in_table = self.status.transitions.contains_key(event_type);
        own.is_some_and(|rest| rest.starts_with('.'))
            || in_table && !event_type.starts_with(HOST_EVENT_PREFIX)
            || self.claims.iter().any(|pattern| topic_matches(pattern, event_type))
    }

    /// The id of the first event of the subject with this id.
    pub fn first_event_id(&self, id: &str) -> String {
        format!("{}-{id}", self.name)
    }
}

/// The kinds of a host.
#[derive(Debug, Clone, Default)]
pub struct SubjectKinds {
    by_name: BTreeMap<String, Arc<SubjectKind>>,
}

impl SubjectKinds {
    /// The kinds, if they are valid together.
    ///
    /// # Errors
    /// Every clash, with the keys of the configuration that are at fault.
    pub fn new(kinds: Vec<SubjectKind>) -> Result<Self, Vec<String>> {
        let problems = clashes::find(&kinds);
        if !problems.is_empty() {
            return Err(problems);
        }
        let by_name = kinds.into_iter().map(|kind| (kind.name.clone(), Arc::new(kind)));
        Ok(Self { by_name: by_name.collect() })
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SubjectKind>> {
        self.by_name.values()
    }

    /// The kind with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<SubjectKind>> {
        self.by_name.get(name)
    }

    /// The kind of a subject; none if it was removed from the configuration.
    pub fn of(&self, key: &str) -> Option<&SubjectKind> {
        let (kind, _) = key.split_once('/')?;
        self.by_name.get(kind).map(AsRef::as_ref)
    }

    /// The key that an event of another program means: `named` is the one that it states, `subject` is
    /// its CloudEvents subject. None: it belongs to no subject.
    ///
    /// # Errors
    /// Which attribute is invalid, and why.
    pub fn resolve(
        &self,
        named: Option<&str>,
        event_type: &str,
        subject: &str,
    ) -> Result<Option<SubjectKey>, ResolveError> {
        if let Some(named) = named {
            let key: SubjectKey = named
                .parse()
                .map_err(|why: SubjectKeyError| ResolveError::Named(why.to_string()))?;
            self.known(&key).map_err(ResolveError::Named)?;
            return Ok(Some(key));
        }
        if let Ok(key) = subject.parse::<SubjectKey>()
            && self.named(key.kind()).is_some()
        {
            return Ok(Some(key));
        }
        if !is_id(subject) {
            return Ok(None);
        }
        match *self.claiming(event_type) {
            [] => Ok(None),
            [kind] => Ok(kind.key(subject)),
            [one, other, ..] => Err(ResolveError::Subject(format!(
                "`{subject}` may be a subject of kind `{}` or `{}`, which both claim `{event_type}`: \
                 write `{}/{subject}` or `{}/{subject}`",
                one.name, other.name, one.name, other.name
            ))),
        }
    }

    /// The kinds to which events of this type belong when they name an id alone: those that claim the
    /// type, or the only kind.
    fn claiming(&self, event_type: &str) -> Box<[&SubjectKind]> {
        let all = self.iter().map(|kind| &**kind);
        if self.by_name.len() == 1 {
            return all.collect();
        }
        all.filter(|kind| kind.claims_event(event_type)).collect()
    }

    /// Refuses the key of a subject whose kind is not configured.
    fn known(&self, key: &SubjectKey) -> Result<(), String> {
        match self.named(key.kind()) {
            Some(_) => Ok(()),
            None => Err(self.unknown(key.kind())),
        }
    }

    /// Explains that there is no kind of this name.
    pub fn unknown(&self, name: &str) -> String {
        let names: Vec<String> = self.by_name.keys().map(|name| format!("`{name}`")).collect();
        if names.is_empty() {
            return format!("unknown kind `{name}`: no kind is configured (`subjects`)");
        }
        format!("unknown kind `{name}`: use one of {}", names.join(", "))
    }
}

/// Why an event names no valid subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveError {
    /// The key that it states is invalid.
    Named(String),
    /// Its CloudEvents subject is ambiguous.
    Subject(String),
}

#[cfg(test)]
mod tests;
