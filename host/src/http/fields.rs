//! A JSON object taken apart field by field, every problem kept.
//!
//! A body that asks for something else than it says could close ten thousand dead letters: what is not
//! known is refused.

use serde_json::{Map, Value};

use super::problem::{Answer, Problem};
use crate::domain::field_error::{FieldError, pointer};
use crate::domain::order::whole;
use crate::domain::timestamp;

/// Longest reason that an operator or a customer gives, characters.
pub(super) const REASON_MAX: usize = 1_024;

/// The fields that are left, and what was wrong with the others.
pub(super) struct Fields {
    left: Map<String, Value>,
    /// Where they stand in the body.
    pointer: String,
    problems: Vec<FieldError>,
}

impl Fields {
    /// The fields of an object that may have these; no body and `null` have none.
    pub(super) fn optional(body: Value, known: &[&str]) -> Self {
        Self::required(if body.is_null() { Value::Object(Map::new()) } else { body }, known)
    }

    /// The fields of an object that may have these.
    pub(super) fn required(body: Value, known: &[&str]) -> Self {
        let mut fields = Self { left: Map::new(), pointer: String::new(), problems: Vec::new() };
        fields.open(body, known);
        fields
    }

    fn open(&mut self, value: Value, known: &[&str]) {
        self.left = Map::new();
        let Value::Object(given) = value else { return self.problem("", "must be an object") };
        for name in given.keys().filter(|name| !known.contains(&name.as_str())) {
            self.problem(&pointer(name), format!("is unknown; known are {}", known.join(", ")));
        }
        self.left = given;
    }

    /// Goes on with the object in a field; without one, with no fields.
    pub(super) fn enter(&mut self, name: &str, known: &[&str]) {
        let inner = self.take(name);
        self.pointer.push_str(&pointer(name));
        self.open(inner.unwrap_or_else(|| Value::Object(Map::new())), known);
    }

    /// Keeps a problem at a pointer below the object.
    pub(super) fn problem(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(FieldError::at(format!("{}{pointer}", self.pointer), detail));
    }

    /// Whether nothing was wrong so far.
    pub(super) fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// A field as it is; `null` counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.take_any(name).filter(|value| !value.is_null())
    }

    /// A field as it is.
    pub(super) fn take_any(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.problem(&pointer(name), "must be a string");
                None
            }
        }
    }

    /// `reason`, for the record.
    pub(super) fn reason(&mut self) -> Option<String> {
        let reason = self.text("reason")?;
        if reason.chars().count() > REASON_MAX {
            self.problem("/reason", format!("must be at most {REASON_MAX} characters long"));
        }
        Some(reason)
    }

    /// A truth value; absent: false.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.problem(&pointer(name), "must be true or false");
                false
            }
        }
    }

    /// A time in either form, milliseconds since 1970-01-01 UTC.
    pub(super) fn time(&mut self, name: &str) -> Option<u64> {
        let said = match self.take(name)? {
            Value::String(text) => text,
            other => whole(&other).map_or_else(|| other.to_string(), |ms| ms.to_string()),
        };
        timestamp::instant_ms(&said).map_err(|why| self.problem(&pointer(name), why)).ok()
    }

    /// All that was wrong, if anything was.
    pub(super) fn finish(self, wanted: &str) -> Answer<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problem::invalid(wanted, self.problems)) }
    }
}
