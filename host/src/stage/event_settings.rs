//! Settings that hold event types: with them the operator chooses on which events a stage acts, and
//! the host what the stage consumes.
//!
//! A stage declares them in the JSON Schema of its settings (`settingsschema`), as properties of the
//! format `event-types` with a default. So routes and settings agree: unless the operator overrides
//! `consumes`, a stage consumes what its settings say. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::domain::event::topic_problem;
use crate::stage::outcome::Description;

/// Attribute of a description that holds a JSON Schema of the settings.
pub const SETTINGS_SCHEMA: &str = "settingsschema";
/// The `format` of a setting that holds event types or topic patterns, separated by commas.
const FORMAT: &str = "event-types";

/// A setting that holds event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSetting {
    /// Its name.
    pub name: String,
    /// The types if the operator sets none.
    pub default: Vec<String>,
}

impl EventSetting {
    /// The settings of this kind that a description declares, by name.
    pub fn all(description: &Description) -> Vec<Self> {
        let schema = description.attributes.iter().find(|(name, _)| name == SETTINGS_SCHEMA);
        let schema: Value =
            schema.and_then(|(_, schema)| serde_json::from_str(schema).ok()).unwrap_or_default();
        let properties = schema["properties"].as_object();
        let settings = properties.into_iter().flatten().filter(|(_, one)| one["format"] == FORMAT);
        settings
            .map(|(name, one)| Self {
                name: name.clone(),
                default: event_types(one["default"].as_str().unwrap_or_default()),
            })
            .collect()
    }
}

/// The event types and patterns in the value of a setting.
fn event_types(value: &str) -> Vec<String> {
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// What a stage with these settings handles: what it declares, with the types in its settings
/// instead of their defaults.
pub fn handles(description: &Description, settings: &BTreeMap<String, String>) -> Vec<String> {
    let declared = EventSetting::all(description);
    let chosen = |one: &EventSetting| settings.get(&one.name).map(|value| event_types(value));
    let in_force: Vec<String> = declared
        .iter()
        .flat_map(|one| chosen(one).unwrap_or_else(|| one.default.clone()))
        .collect();
    let replaced = |pattern: &String| declared.iter().any(|one| one.default.contains(pattern));
    let mut handled: Vec<String> =
        description.consumes.iter().filter(|pattern| !replaced(pattern)).cloned().collect();
    for pattern in in_force {
        if !handled.contains(&pattern) {
            handled.push(pattern);
        }
    }
    handled
}

/// What is wrong with the event types in a stage's settings.
pub fn problem(description: &Description, settings: &BTreeMap<String, String>) -> Option<String> {
    for one in EventSetting::all(description) {
        let Some(value) = settings.get(&one.name) else { continue };
        for pattern in event_types(value) {
            if let Some(why) = topic_problem(&pattern) {
                return Some(format!("setting `{}`: the event type `{pattern}` {why}", one.name));
            }
        }
    }
    let nothing = handles(description, settings).is_empty();
    nothing.then(|| "its settings leave it no event type to consume".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let schema = serde_json::json!({ "properties": {
            "charge_on": { "format": "event-types", "default": "order.created" },
            "refund_on": { "format": "event-types", "default": "order.cancelled, stock.rejected" },
            "limit": { "type": "string", "default": "7" },
        }});
        let mut description = Description::new("billing", "1", "").consumes([
            "order.created",
            "order.cancelled",
            "stock.rejected",
            "billing.timer",
        ]);
        description.attributes.push((SETTINGS_SCHEMA.to_owned(), schema.to_string()));
        description
    }

    fn settings(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_replace_the_types_that_a_stage_handles() {
        let description = description();
        for (given, expected) in [
            (&[][..], &["billing.timer", "order.created", "order.cancelled", "stock.rejected"][..]),
            (
                &[("charge_on", "stock.reserved"), ("limit", "order.created")],
                &["billing.timer", "stock.reserved", "order.cancelled", "stock.rejected"],
            ),
            (
                &[("charge_on", "a.b, order.cancelled"), ("refund_on", "")],
                &["billing.timer", "a.b", "order.cancelled"],
            ),
        ] {
            assert_eq!(handles(&description, &settings(given)), expected, "{given:?}");
        }
        let plain = Description::new("audit", "1", "").consumes(["#"]);
        assert_eq!(handles(&plain, &settings(&[("charge_on", "x")])), ["#"]);
    }

    #[test]
    fn invalid_event_types_are_named_with_their_setting() {
        let found = problem(&description(), &settings(&[("charge_on", "order..created")])).unwrap();
        assert!(found.contains("`charge_on`") && found.contains("`order..created`"), "{found}");
        assert_eq!(problem(&description(), &settings(&[("charge_on", "")])), None);
        let mut only = description();
        only.consumes = vec!["order.created".to_owned()];
        let none = settings(&[("charge_on", ","), ("refund_on", "")]);
        assert!(problem(&only, &none).is_some_and(|found| found.contains("no event type")));
    }
}
