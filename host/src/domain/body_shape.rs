//! How the bodies of subjects are read: where the id and the customer are, and what stages see.
//!
//! Pure; reports all problems together. A kind chooses its shape; [`BodyShape::Plain`] reads any JSON
//! object, the others are adapters for bodies that clients send in several forms.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::body_fields::{checked_id, take_only_id};
use super::event::hex;
use super::field_error::{FieldError, pointer};
use super::json;
use super::subject::is_id;

pub mod order;

/// How the bodies of a kind are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyShape {
    /// Any JSON object, passed on as it is.
    #[default]
    Plain,
    /// An order, see [`order`].
    Order,
}

/// Where the id of a subject is, and what it has to match.
#[derive(Debug, Clone)]
pub struct IdRule {
    /// The field of the body that holds it.
    pub field: String,
    /// What ids have to match, beyond [`super::subject::ID_PATTERN`].
    pub pattern: Option<regex::Regex>,
}

/// A body that can be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedBody {
    /// The subject's id.
    pub id: String,
    /// The customer.
    pub customer: Option<String>,
    /// The body as stages see it.
    pub body: Value,
    /// Detects a different body under the same id: SHA-256 of the canonical form, in hex.
    pub fingerprint: String,
}

impl BodyShape {
    /// The fields of the id and of the customer that this shape prescribes; none: the kind names them.
    pub fn fields(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Plain => None,
            Self::Order => Some((order::ID, order::CUSTOMER)),
        }
    }

    /// Parses a body. Without an id it gets one from `idempotency_key` (the same for the same key), else
    /// a new `UUIDv7`.
    pub fn parse(
        self,
        id: &IdRule,
        customer_field: Option<&str>,
        body: Value,
        idempotency_key: Option<&str>,
    ) -> Result<ParsedBody, Vec<FieldError>> {
        let fingerprint = hex(&Sha256::digest(json::canonical(&body)));
        let Value::Object(mut fields) = body else {
            return Err(vec![FieldError::at("", "must be a JSON object")]);
        };
        let mut problems = Vec::new();
        let id_text = id.take(&mut fields, idempotency_key, &mut problems);
        let customer = match self {
            Self::Plain => customer(&fields, customer_field, &mut problems),
            Self::Order => order::parse(&mut fields, &mut problems),
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        fields.insert(id.field.clone(), json!(id_text));
        Ok(ParsedBody { id: id_text, customer, body: Value::Object(fields), fingerprint })
    }
}

impl IdRule {
    /// Whether a subject may get this id.
    fn accepts(&self, id: &str) -> bool {
        is_id(id) && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    }

    /// Removes the id from the body, or makes one.
    fn take(
        &self,
        fields: &mut Map<String, Value>,
        idempotency_key: Option<&str>,
        problems: &mut Vec<FieldError>,
    ) -> String {
        let is_given = fields.contains_key(&self.field);
        let given = take_only_id(fields, &self.field, problems);
        if is_given && given.is_none() {
            return String::new();
        }
        let id = given.unwrap_or_else(|| new_id(idempotency_key));
        if !self.accepts(&id) {
            let pattern = self.pattern.as_ref().map_or("", regex::Regex::as_str);
            let detail = if is_given {
                format!("must match `{pattern}`")
            } else {
                format!("is missing: ids must match `{pattern}`, so none can be generated")
            };
            problems.push(FieldError::at(pointer(&self.field), detail));
        }
        id
    }
}

fn new_id(idempotency_key: Option<&str>) -> String {
    match idempotency_key {
        Some(key) => uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key.as_bytes()).to_string(),
        None => uuid::Uuid::now_v7().to_string(),
    }
}

/// The customer that a plain body names.
fn customer(
    fields: &Map<String, Value>,
    field: Option<&str>,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let field = field?;
    let value = fields.get(field).filter(|value| !value.is_null())?;
    checked_id(value, field, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: Option<&str>) -> IdRule {
        IdRule {
            field: "document_id".to_owned(),
            pattern: pattern.map(|pattern| regex::Regex::new(pattern).unwrap()),
        }
    }

    fn parse(body: Value, pattern: Option<&str>) -> Result<ParsedBody, Vec<FieldError>> {
        BodyShape::Plain.parse(&rule(pattern), Some("author"), body, None)
    }

    fn pointers(result: Result<ParsedBody, Vec<FieldError>>) -> Vec<String> {
        result.unwrap_err().into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn a_plain_body_is_passed_on_with_its_id_as_text() {
        let body = json!({ "document_id": 7, "author": 42, "title": "T", "items": "any" });
        let parsed = parse(body, None).unwrap();
        assert_eq!((parsed.id.as_str(), parsed.customer.as_deref()), ("7", Some("42")));
        let expected = json!({ "document_id": "7", "author": 42, "title": "T", "items": "any" });
        assert_eq!(parsed.body, expected);
        let without = parse(json!({ "author": null }), None).unwrap();
        assert_eq!(without.customer, None);
        assert_eq!(without.body["document_id"], without.id.as_str());
    }

    #[test]
    fn ids_match_the_pattern_of_the_kind() {
        assert_eq!(parse(json!({ "document_id": "D-1" }), Some("^D-[0-9]+$")).unwrap().id, "D-1");
        for body in [json!({ "document_id": "X-1" }), json!({}), json!({ "document_id": "a/b" })] {
            assert_eq!(pointers(parse(body, Some("^D-[0-9]+$"))), ["/document_id"]);
        }
        let missing = parse(json!({}), Some("^D-[0-9]+$")).unwrap_err();
        assert!(missing[0].detail.contains("is missing"), "{missing:?}");
    }

    #[test]
    fn all_problems_are_reported_together() {
        let body = json!({ "document_id": "a/b", "author": [] });
        assert_eq!(pointers(parse(body, None)), ["/document_id", "/author"]);
        assert_eq!(pointers(parse(json!([]), None)), [""]);
    }

    #[test]
    fn ids_derive_from_the_idempotency_key_and_fingerprints_from_the_body() {
        let parse = |title: &str, key| {
            BodyShape::Plain.parse(&rule(None), None, json!({ "title": title }), key).unwrap()
        };
        assert_eq!(parse("a", Some("k")).id, parse("b", Some("k")).id);
        assert_ne!(parse("a", Some("k")).fingerprint, parse("b", Some("k")).fingerprint);
        assert_ne!(parse("a", None).id, parse("a", None).id);
    }
}
