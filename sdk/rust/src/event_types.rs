//! Event types that the operator can choose with a setting, so that the order of stages is a matter of
//! configuration.

/// Event types on which a stage acts in one way, and the setting that replaces them.
///
/// ```
/// use postrider_stage::{Context, Description, Emit, Event, EventTypes, Failure, Stage};
///
/// const CHARGE_ON: EventTypes =
///     EventTypes::new("charge_on", &["order.created"], "Events that charge the customer");
///
/// struct Billing;
///
/// impl Stage for Billing {
///     fn describe() -> Description {
///         Description::new("billing", "1.0.0", "Charges customers")
///             .consumes_setting(&CHARGE_ON)
///             .emits(&["billing.charged"])
///     }
///
///     fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
///         if cx.is_one_of(&CHARGE_ON, event) {
///             return Ok(vec![Emit::json("billing.charged", &serde_json::json!({}))]);
///         }
///         Err(Failure::unhandled(event))
///     }
/// }
///
/// let mut host = postrider_stage::testing::MemoryHost::default()
///     .with_setting("charge_on", "parcel.packed, parcel.split");
/// let event = |event_type| Event::json(event_type, "7", &serde_json::json!({}));
/// assert!(host.handle::<Billing>(&event("parcel.split")).is_ok());
/// assert_eq!(host.handle::<Billing>(&event("order.created")).unwrap_err().code, "unhandled-event");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTypes {
    /// Name of the setting: event types or AMQP topic patterns, separated by commas.
    pub setting: &'static str,
    /// The types if the setting is missing.
    pub default: &'static [&'static str],
    /// What the stage does on them, in one line.
    pub summary: &'static str,
}

impl EventTypes {
    /// Event types with the name of their setting.
    pub const fn new(
        setting: &'static str,
        default: &'static [&'static str],
        summary: &'static str,
    ) -> Self {
        Self { setting, default, summary }
    }

    /// Whether the type is among those of the setting's value, or among the default ones.
    pub(crate) fn include(&self, value: Option<&str>, event_type: &str) -> bool {
        match value {
            Some(value) => {
                value.split(',').map(str::trim).any(|pattern| matches(pattern, event_type))
            }
            None => self.default.iter().any(|pattern| matches(pattern, event_type)),
        }
    }
}

/// Whether an AMQP topic pattern covers an event type: `*` stands for one word, `#` for any number.
fn matches(pattern: &str, event_type: &str) -> bool {
    // The usual pattern is a type, and this runs for every event.
    if !pattern.contains(['*', '#']) {
        return pattern == event_type;
    }
    let words: Vec<&str> = event_type.split('.').collect();
    // `covered[n]`: the part of the pattern that was read covers the first `n` words.
    let mut covered = vec![false; words.len() + 1];
    covered[0] = true;
    for part in pattern.split('.') {
        let mut next = vec![false; words.len() + 1];
        for at in 0..=words.len() {
            next[at] = match part {
                "#" => covered[at] || (at > 0 && next[at - 1]),
                part => at > 0 && covered[at - 1] && (part == "*" || part == words[at - 1]),
            };
        }
        covered = next;
    }
    covered[words.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_replaces_the_default_types() {
        let types = EventTypes::new("on", &["order.created", "order.changed"], "");
        for (value, event_type, expected) in [
            (None, "order.created", true),
            (None, "order.changed", true),
            (None, "stock.reserved", false),
            (Some("stock.reserved"), "stock.reserved", true),
            (Some("stock.reserved"), "order.created", false),
            (Some(" a.b ,stock.reserved "), "stock.reserved", true),
            (Some("stock.*"), "stock.reserved", true),
            (Some("stock.*"), "stock", false),
            (Some("#"), "stock.reserved", true),
            (Some("stock.#"), "stock", true),
            (Some("#.late"), "stock.reserved.late", true),
            (Some("a.#.b.*"), "a.x.y.b.c", true),
            (Some("a.#.b.*"), "a.b", false),
            (Some(""), "order.created", false),
        ] {
            assert_eq!(types.include(value, event_type), expected, "{value:?} {event_type}");
        }
    }
}
