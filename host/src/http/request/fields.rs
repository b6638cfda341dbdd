//! Reads a JSON object field by field and collects every problem.
//!
//! Unknown fields are refused: a misspelt filter must not settle ten thousand dead letters.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::body::RequestBody;
use crate::domain::field_error::{FieldError, pointer};
use crate::domain::json::whole;
use crate::domain::timestamp;
use crate::http::problem::{Answer, Problem};

/// Longest reason that an operator or a customer gives, in characters.
pub(crate) const REASON_MAX: usize = 1_024;

/// The fields that are not read yet, and the problems found so far.
pub(crate) struct Fields {
    left: Map<String, Value>,
    /// JSON pointer to the object that is being read.
    pointer: String,
    problems: Vec<FieldError>,
}

impl Fields {
    /// The fields of an object that may have those in `known`; `null` has none.
    pub(crate) fn new(body: Value, known: &[&str]) -> Self {
        let mut fields = Self { left: Map::new(), pointer: String::new(), problems: Vec::new() };
        fields.open(body, known);
        fields
    }

    fn open(&mut self, value: Value, known: &[&str]) {
        self.left = match value {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => {
                self.left = Map::new();
                return self.problem("", "must be an object");
            }
        };
        let unknown: Vec<String> =
            self.left.keys().filter(|name| !known.contains(&name.as_str())).cloned().collect();
        for name in unknown {
            let detail = format!("unknown field; known fields are {}", known.join(", "));
            self.problem(&pointer(&name), detail);
        }
    }

    /// Continues with the object in a field; without the field, with an empty object.
    pub(crate) fn enter(&mut self, name: &str, known: &[&str]) {
        let inner = self.take(name);
        self.pointer.push_str(&pointer(name));
        self.open(inner.unwrap_or_default(), known);
    }

    /// Records a problem at a pointer below the object that is being read.
    pub(crate) fn problem(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(FieldError::at(format!("{}{pointer}", self.pointer), detail));
    }

    /// Whether no problem was found so far.
    pub(crate) fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// The value of a field; `null` counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.take_nullable(name).filter(|value| !value.is_null())
    }

    /// The value of a field, which may be `null`.
    pub(crate) fn take_nullable(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    /// A string.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.problem(&pointer(name), "must be a string");
                None
            }
        }
    }

    /// Anything that is parsed from a string.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        text.parse().map_err(|why: T::Err| self.problem(&pointer(name), why.to_string())).ok()
    }

    /// The field `reason`, of at most [`REASON_MAX`] characters.
    pub(crate) fn reason(&mut self) -> Option<String> {
        let reason = self.text("reason")?;
        if reason.chars().count() > REASON_MAX {
            self.problem("/reason", format!("must be at most {REASON_MAX} characters long"));
        }
        Some(reason)
    }

    /// Whether a field is `true`; absent means `false`.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.problem(&pointer(name), "must be true or false");
                false
            }
        }
    }

    /// A time, as RFC 3339 or as milliseconds since 1970-01-01 UTC; returned as the latter.
    pub(crate) fn time(&mut self, name: &str) -> Option<u64> {
        let text = match self.take(name)? {
            Value::String(text) => text,
            other => whole(&other).map_or_else(|| other.to_string(), |ms| ms.to_string()),
        };
        timestamp::instant_ms(&text).map_err(|why| self.problem(&pointer(name), why)).ok()
    }

    /// Refuses the body when there were problems; `name` is what it should have been.
    pub(crate) fn finish(self, name: &str) -> Answer<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problem::invalid(name, self.problems)) }
    }
}

/// A body that may give a reason, for the record.
pub(crate) struct Reason(pub(crate) Option<String>);

impl RequestBody for Reason {
    const NAME: &'static str = "request";
    const FIELDS: &'static [&'static str] = &["reason"];

    fn take(fields: &mut Fields) -> Self {
        Self(fields.reason())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_and_wrong_types_are_all_reported() {
        let body = json!({ "stage": 1, "filter": { "since": "yesterday", "x": 1 } });
        let mut fields = Fields::new(body, &["stage", "filter"]);
        assert_eq!(fields.text("stage"), None);
        fields.enter("filter", &["since"]);
        assert_eq!(fields.time("since"), None);
        let pointers: Vec<&str> =
            fields.problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/stage", "/filter/x", "/filter/since"]);
        assert!(fields.finish("request").is_err());
    }

    #[test]
    fn null_and_a_missing_body_have_no_fields() {
        let mut fields = Fields::new(Value::Null, &["reason"]);
        assert_eq!((fields.reason(), fields.is_valid()), (None, true));
    }
}
