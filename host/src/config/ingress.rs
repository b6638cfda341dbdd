//! What other programs may send, over HTTP and through the broker.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::cloud_events::allow_list::AllowRule;
use crate::domain::event::{HOST_EVENT_PREFIX, topic_problem};

/// Any source.
const ANY_SOURCE: &str = "*";
/// Any type.
const ANY_TYPE: &str = "#";
/// Longest pattern of a source: a source has at most as many characters.
const SOURCE_MAX: usize = 255;

/// Events of other programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngressConfig {
    /// Types that other programs may send, each with the sources that it may come from. Types that change
    /// the status of a subject, or stock, are not covered by wildcards: name them in full.
    pub allow: Vec<IngressRule>,
    /// Most open dead letters of forged and unreadable messages that a stage keeps; further ones are
    /// only counted.
    pub dead_letters_max: u64,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self { allow: vec![IngressRule::default()], dead_letters_max: 10_000 }
    }
}

/// Types and the sources that they may come from: in a file a topic pattern, or a table.
///
/// ```
/// use postrider::{Config, IngressRule};
///
/// let mut config = Config::default();
/// config.ingress.allow =
///     vec![IngressRule { types: vec!["carrier.*".into()], sources: vec!["/carrier/*".into()] }];
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressRule {
    /// Topic patterns of types.
    pub types: Vec<String>,
    /// Sources, in which `*` stands for any text.
    pub sources: Vec<String>,
}

/// Every type that changes neither a status nor stock, from any source.
impl Default for IngressRule {
    fn default() -> Self {
        Self { types: vec![ANY_TYPE.to_owned()], sources: vec![ANY_SOURCE.to_owned()] }
    }
}

/// The table.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    types: Vec<String>,
    sources: Vec<String>,
}

impl Default for Table {
    fn default() -> Self {
        let IngressRule { types, sources } = IngressRule::default();
        Self { types, sources }
    }
}

impl Serialize for IngressRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { types, sources } = self.clone();
        match (&types[..], &sources[..]) {
            ([one], [any]) if any == ANY_SOURCE => serializer.serialize_str(one),
            _ => Table { types, sources }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for IngressRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = IngressRule;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a topic pattern, or a table with `types` and `sources`")
            }

            fn visit_str<E: serde::de::Error>(self, pattern: &str) -> Result<IngressRule, E> {
                Ok(IngressRule { types: vec![pattern.to_owned()], ..IngressRule::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<IngressRule, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(IngressRule { types: table.types, sources: table.sources })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl IngressConfig {
    /// The rules, for the checks of events.
    pub(super) fn rules(&self) -> Vec<AllowRule> {
        let rule = |rule: &IngressRule| AllowRule {
            types: rule.types.clone(),
            sources: rule.sources.clone(),
        };
        self.allow.iter().map(rule).collect()
    }

    /// Adds every problem to `problems`.
    pub(super) fn find_problems(&self, problems: &mut Vec<String>) {
        super::validate::at_least_one("ingress.dead_letters_max", self.dead_letters_max, problems);
        for (at, IngressRule { types, sources }) in self.allow.iter().enumerate() {
            let place = format!("ingress.allow[{at}]");
            for (key, list) in [("types", types), ("sources", sources)] {
                if list.is_empty() {
                    problems.push(format!("{place}.{key}: is empty, so the rule allows nothing"));
                }
            }
            for pattern in types {
                if let Some(why) = topic_problem(pattern) {
                    problems.push(format!("{place}: the topic pattern `{pattern}` {why}"));
                } else if pattern.starts_with(HOST_EVENT_PREFIX) {
                    problems.push(format!(
                        "{place}: `{pattern}`: types that start with `{HOST_EVENT_PREFIX}` are the \
                         host's own, and cannot be allowed"
                    ));
                }
            }
            for pattern in sources {
                if let Some(why) = source_problem(pattern) {
                    problems.push(format!("{place}: the source `{pattern}` {why}"));
                }
            }
        }
    }
}

/// Why no source can match a pattern; none if one can.
fn source_problem(pattern: &str) -> Option<&'static str> {
    if pattern.is_empty() {
        return Some("is empty: write `*` for any source");
    }
    if pattern.chars().count() > SOURCE_MAX {
        return Some("is longer than 255 characters");
    }
    pattern.contains(char::is_control).then_some("contains a control character")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_rule_is_a_pattern_or_a_table() {
        let text = "ingress.allow = [\"desk.*\", { types = [\"carrier.collected\"], \
                    sources = [\"/carrier/*\"] }, { sources = [\"/partner\"] }]";
        let config = Config::from_toml(text).unwrap();
        let rule = |types: &str, sources: &str| IngressRule {
            types: vec![types.to_owned()],
            sources: vec![sources.to_owned()],
        };
        let expected =
            [rule("desk.*", "*"), rule("carrier.collected", "/carrier/*"), rule("#", "/partner")];
        assert_eq!(config.ingress.allow, expected);
        let shown = serde_json::to_value(&config.ingress.allow).unwrap();
        assert_eq!(
            (&shown[0], &shown[1]["types"][0]),
            (&"desk.*".into(), &"carrier.collected".into())
        );
    }

    #[test]
    fn types_that_the_settings_of_the_stock_name_are_protected() {
        let text = "[stages.inventory]\nconsumes = [\"shelf.filled\", \"other.*\"]\n\
                    [stages.inventory.settings]\nrestock_on = \"warehouse.unloaded, van.unloaded\"\n\
                    default_stock = \"1000\"\n[stages.payment.settings]\npay_on = \"desk.paid\"\n";
        let config = Config::from_toml(text).unwrap();
        let allowed = config.allow_list(&config.kinds().unwrap());
        for event_type in ["warehouse.unloaded", "van.unloaded", "shelf.filled"] {
            assert!(allowed.problem(event_type, "/x").is_some(), "{event_type}");
        }
        for event_type in ["desk.paid", "other.thing", "1000"] {
            assert_eq!(allowed.problem(event_type, "/x"), None, "{event_type}");
        }
    }

    #[test]
    fn every_problem_is_reported_with_its_key() {
        let text = "[ingress]\ndead_letters_max = 0\nallow = [\"a..b\", { types = [], sources = [\"\"] }, \
                    \"postrider.x\"]";
        let found = Config::from_toml(text).unwrap_err().0;
        let expected = [
            "ingress.dead_letters_max: must be at least 1",
            "ingress.allow[0]: the topic pattern `a..b` has an empty word: it begins or ends with a dot, \
             or has two in a row",
            "ingress.allow[1].types: is empty, so the rule allows nothing",
            "ingress.allow[1]: the source `` is empty: write `*` for any source",
            "ingress.allow[2]: `postrider.x`: types that start with `postrider.` are the host's own, and \
             cannot be allowed",
        ];
        assert_eq!(found, expected);
        let found = Config::from_toml("ingress.allow = [7, { type = \"x\" }]").unwrap_err().0;
        assert!(
            found[0].starts_with("ingress.allow") && found[0].contains("topic pattern"),
            "{found:?}"
        );
        assert!(found[1].contains("did you mean `types`?"), "{found:?}");
    }
}
