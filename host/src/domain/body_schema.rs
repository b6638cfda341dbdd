//! The JSON Schema of a kind's bodies, compiled when the configuration is read.
//!
//! Pure: a reference to another document is an error, nothing is fetched. Patterns are matched in linear
//! time, so no body makes a check slow. Bounds: [`PROBLEMS_MAX`] problems of one body; problems never
//! repeat values of the body.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::field_error::{FieldError, pointer};

/// Most problems that are reported of one body or schema.
const PROBLEMS_MAX: usize = 100;

/// A compiled schema.
#[derive(Clone)]
pub struct BodySchema {
    document: Arc<Value>,
    validator: Arc<Validator>,
}

impl fmt::Debug for BodySchema {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.document, formatter)
    }
}

impl BodySchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with it, each problem with its JSON pointer.
    pub fn compile(document: Value) -> Result<Self, Vec<FieldError>> {
        let problems: Vec<FieldError> = match jsonschema::meta::validator_for(&document) {
            Ok(meta) => meta.iter_errors(&document).take(PROBLEMS_MAX).map(problem).collect(),
            Err(error) => vec![in_schema(&error)],
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let options =
            jsonschema::options().with_pattern_options(PatternOptions::regex()).build(&document);
        match options {
            Ok(validator) => {
                Ok(Self { document: Arc::new(document), validator: Arc::new(validator) })
            }
            Err(error) => Err(vec![in_schema(&error)]),
        }
    }

    /// The schema as it was written.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// What is wrong with a body.
    pub fn check(&self, body: &Value) -> Vec<FieldError> {
        self.validator.iter_errors(body).take(PROBLEMS_MAX).map(problem).collect()
    }
}

/// A problem of compiling a schema: the schema is no instance that has a place.
fn in_schema(error: &ValidationError<'_>) -> FieldError {
    let places = [error.instance_path().as_str(), error.schema_path().as_str()];
    let place = places.into_iter().find(|place| !place.is_empty()).unwrap_or_default();
    FieldError::at(place, error.to_string())
}

fn problem(error: ValidationError<'_>) -> FieldError {
    let place = error.instance_path().as_str();
    let detail = error.masked().to_string();
    match error.kind() {
        // The problem is at the field that is not there.
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            FieldError::at(format!("{place}{}", pointer(name)), "is missing")
        }
        _ => FieldError::at(place, detail),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_of_a_body_has_its_pointer() {
        let schema = BodySchema::compile(json!({
            "type": "object",
            "required": ["title"],
            "properties": {
                "title": { "type": "string" },
                "pages": { "type": "array", "items": { "type": "integer", "minimum": 1 } },
                "a/b": { "const": 1 },
            },
        }))
        .unwrap();
        let found = schema.check(&json!({ "pages": [1, 0, "secret"], "a/b": 2 }));
        let mut pointers: Vec<&str> = found.iter().map(|one| one.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/a~1b", "/pages/1", "/pages/2", "/title"]);
        assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        assert_eq!(schema.check(&json!({ "title": "T", "pages": [1] })), []);
    }

    #[test]
    fn an_invalid_schema_is_explained() {
        for (schema, place) in [
            (json!({ "properties": { "a": { "type": "integr" } } }), "/properties/a/type"),
            (json!({ "$ref": "https://example.com/schema.json" }), ""),
            (json!({ "$ref": "#/$defs/missing" }), ""),
            (json!({ "properties": { "a": { "pattern": "(" } } }), "/properties/a/pattern"),
            (json!({ "$schema": "https://example.com/unknown" }), ""),
        ] {
            let found = BodySchema::compile(schema.clone()).unwrap_err();
            assert!(found.iter().any(|one| one.pointer.starts_with(place)), "{schema}: {found:?}");
        }
    }

    #[cfg(feature = "exact-numbers")]
    #[test]
    fn numbers_are_compared_digit_by_digit() {
        let check = |schema: &str, body: &str| {
            let parse = |text: &str| crate::domain::json::parse(text.as_bytes()).unwrap();
            BodySchema::compile(parse(schema)).unwrap().check(&parse(body)).len()
        };
        for (schema, valid, invalid) in [
            (r#"{ "maximum": 9007199254740992 }"#, "9007199254740992", "9007199254740993"),
            (r#"{ "exclusiveMinimum": 0.1 }"#, "0.10000000000000000001", "0.1"),
            (r#"{ "const": 1.10 }"#, "1.1", "1.10000000000000000001"),
            (r#"{ "multipleOf": 0.01 }"#, "19.99", "19.990000000000000001"),
            (r#"{ "maximum": 1e400 }"#, "1e400", "1.1e400"),
            (r#"{ "enum": [1e400] }"#, "1e400", "2e400"),
            (r#"{ "uniqueItems": true }"#, "[1e400, 2e400]", "[1e400, 1e400]"),
            (r#"{ "type": "integer" }"#, "1.0", "1.00000000000000000001"),
        ] {
            assert_eq!(check(schema, valid), 0, "{schema} {valid}");
            assert_eq!(check(schema, invalid), 1, "{schema} {invalid}");
        }
    }

    #[test]
    fn no_number_takes_long() {
        let (digits, schemas) = (
            "9".repeat(100_000),
            [
                json!({ "type": "integer" }),
                json!({ "maximum": 10 }),
                json!({ "multipleOf": 0.01 }),
                json!({ "multipleOf": 7 }),
                json!({ "const": 7 }),
                json!({ "uniqueItems": true }),
            ],
        );
        for number in ["1e999999999", "1e-999999999", "-1.5e20000", &digits] {
            let text = format!("[{}]", [number; 10].join(","));
            let body = crate::domain::json::parse(text.as_bytes()).unwrap();
            for schema in &schemas {
                let schema = BodySchema::compile(json!({ "items": schema })).unwrap();
                let began = std::time::Instant::now();
                let _ = schema.check(&body);
                let took = began.elapsed();
                assert!(took.as_secs() < 2, "{schema:?} {number:.20}: {took:?}");
            }
        }
    }

    #[test]
    fn patterns_take_linear_time() {
        let schema = BodySchema::compile(json!({ "pattern": "^(a+)+$" })).unwrap();
        assert_eq!(schema.check(&json!(format!("{}b", "a".repeat(100_000)))).len(), 1);
    }
}
