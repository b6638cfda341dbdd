//! What no type describes, as JSON Schema: bodies that are checked by hand, so that one answer lists
//! every problem, and the recordings that the API and the files of `postrider replay` share.

use serde_json::{Value, json};

mod events;
mod operations;
mod bodies;
mod recordings;

pub(super) use self::bodies::new_subject;

/// A schema with its name.
type Named = (&'static str, Value);

/// Whether a body with this schema may be left out.
pub(super) fn is_optional(reference: &str) -> bool {
    ["Reason", "RollbackRequest", "Replay", "Rotation", "RewrapBatch", "Json"]
        .iter()
        .any(|name| reference.strip_prefix("#/components/schemas/") == Some(name))
}

/// Every such schema.
pub(super) fn all() -> impl Iterator<Item = Named> {
    bodies::all().into_iter().chain(operations::all()).chain(events::all()).chain(recordings::all())
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn instant() -> Value {
    json!({ "anyOf": [
        { "type": "string", "format": "date-time" },
        { "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX },
    ] })
}

fn nullable_string() -> Value {
    json!({ "type": ["string", "null"] })
}
