//! Fields that several bodies have: ids, quantities, and names with the same meaning. Pure.

use serde_json::{Map, Value};

use crate::domain::field_error::{FieldError, pointer};
use crate::domain::json::whole;
use crate::domain::subject::{ID_RULE, is_id};

/// Largest quantity of one line.
pub const QUANTITY_MAX: u64 = 1_000_000;

/// Refuses two fields with the same meaning.
pub(crate) fn refuse_both(
    fields: &Map<String, Value>,
    one: &str,
    other: &str,
    problems: &mut Vec<FieldError>,
) {
    if fields.contains_key(one) && fields.contains_key(other) {
        problems.push(FieldError::at(
            pointer(other),
            format!("conflicts with `{one}`: give only one of them"),
        ));
    }
}

/// Removes the only one of two keys that is there, as text; a number counts as its digits.
pub(crate) fn take_id(
    fields: &mut Map<String, Value>,
    keys: [&str; 2],
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    refuse_both(fields, keys[0], keys[1], problems);
    keys.into_iter().find_map(|key| take_only_id(fields, key, problems))
}

/// Removes an id, as text.
pub(crate) fn take_only_id(
    fields: &mut Map<String, Value>,
    key: &str,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let value = fields.remove(key)?;
    checked_id(&value, key, problems)
}

/// The id in the field `key`, as text.
pub(crate) fn checked_id(
    value: &Value,
    key: &str,
    problems: &mut Vec<FieldError>,
) -> Option<String> {
    let text = id_text(value);
    if text.is_none() {
        let detail = format!("must be a whole number or a string of {ID_RULE}");
        problems.push(FieldError::at(pointer(key), detail));
    }
    text
}

/// An id as text; a whole number counts as its digits.
pub(crate) fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if is_id(text) => Some(text.clone()),
        _ => whole(value).map(|number| number.to_string()),
    }
}

/// A whole number from 1 to [`QUANTITY_MAX`]; 0 where it is invalid.
pub(crate) fn quantity(
    value: Option<&Value>,
    pointer: &str,
    problems: &mut Vec<FieldError>,
) -> u64 {
    match value.and_then(whole) {
        Some(quantity) if (1..=QUANTITY_MAX).contains(&quantity) => quantity,
        _ => {
            problems.push(FieldError::at(
                pointer,
                format!("must be a whole number from 1 to {QUANTITY_MAX}"),
            ));
            0
        }
    }
}
