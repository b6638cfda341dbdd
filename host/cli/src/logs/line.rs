//! A log line: parsed from JSON, and as text for people.

use console::style;
use postrider::LogLevel;
use postrider::internals::timestamp;
use serde_json::Value;

/// Fields that have a place of their own in the text.
const PLACED: [&str; 6] = ["timestamp", "level", "target", "message", "stage", "attempt"];
/// Digits of a digest that are shown.
const DIGEST_CHARS: usize = 12;
/// Target of what guests log.
const GUEST: &str = "postrider::guest";

/// One log line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Where it comes from, when there are several places.
    pub(super) label: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) at_ms: u64,
    /// The whole line.
    pub(super) fields: Value,
}

/// Which fields are worth their place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) subject: bool,
    pub(super) trace: bool,
}

impl Line {
    /// Reads a line that a host logged. What is before the JSON is a label: `docker compose logs` puts
    /// the name of the container there.
    pub(super) fn parse(label: Option<&str>, text: &str) -> Option<Self> {
        let (before, json) = text.split_at(text.find('{')?);
        let fields: Value = serde_json::from_str(json.trim_end()).ok()?;
        let at_ms = timestamp::instant_ms(fields.get("timestamp")?.as_str()?).ok()?;
        let before = before.trim_end_matches([' ', '|']).trim();
        let label = Some(before).filter(|before| !before.is_empty()).or(label);
        Some(Self { label: label.map(str::to_owned), at_ms, fields })
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    pub(super) fn level(&self) -> Option<LogLevel> {
        self.field("level")?.to_ascii_lowercase().parse().ok()
    }

    /// Time, level, stage and attempt, message, then the other fields.
    pub(super) fn text(&self, shown: Shown) -> String {
        let mut parts = vec![style(timestamp::text(self.at_ms)).dim().to_string()];
        parts.extend(self.label.as_deref().map(|label| style(printable(label)).dim().to_string()));
        let level = style(format!("{:<5}", printable(self.field("level").unwrap_or("-"))));
        let level = match self.level() {
            Some(LogLevel::Error) => level.red(),
            Some(LogLevel::Warn) => level.yellow(),
            _ => level.dim(),
        };
        parts.push(level.to_string());
        parts.push(style(format!("{:<14}", self.place())).bold().to_string());
        parts.push(printable(self.field("message").unwrap_or_default()));
        for (name, value) in self.fields.as_object().into_iter().flatten() {
            let is_shown = match name.as_str() {
                "subject" => shown.subject,
                "trace_id" | "span_id" => shown.trace,
                name => !PLACED.contains(&name),
            };
            if is_shown {
                let value = match value {
                    Value::String(text) if name == "digest" => {
                        text.chars().take(DIGEST_CHARS).collect()
                    }
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let name = style(format!("{}=", printable(name))).dim();
                parts.push(format!("{name}{}", printable(&value)));
            }
        }
        parts.join(" ")
    }

    /// `payment#2` for the host's lines about an attempt, `payment#2>` for those of the stage itself, and
    /// the part of the host for all others.
    fn place(&self) -> String {
        let target = self.field("target").unwrap_or_default();
        let Some(stage) = self.field("stage") else {
            return printable(target.strip_prefix("postrider::").unwrap_or(target));
        };
        let attempt = self.fields["attempt"].as_u64();
        let attempt = attempt.map(|attempt| format!("#{attempt}")).unwrap_or_default();
        let arrow = if target == GUEST { ">" } else { "" };
        format!("{}{attempt}{arrow}", printable(stage))
    }
}

/// The text without control characters: what a guest logged must not control a terminal, nor look like a
/// line of its own.
fn printable(text: &str) -> String {
    let escaped = |char: char| {
        if char.is_control() { char.escape_default().to_string() } else { char.to_string() }
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"timestamp":"2026-01-31T12:00:00.123456Z","level":"WARN","message":"no \u001b[31mstock\nleft","target":"postrider::guest","stage":"inventory","attempt":2,"subject":"order/17","trace_id":"ab","digest":"0123456789abcdef"}"#;

    fn text(label: Option<&str>, line: &str, shown: bool) -> String {
        let line = Line::parse(label, line).unwrap();
        let text = line.text(Shown { subject: shown, trace: shown });
        console::strip_ansi_codes(&text).into_owned()
    }

    #[test]
    fn lines_are_readable_and_control_no_terminal() {
        assert_eq!(
            text(None, LINE, false),
            "2026-01-31T12:00:00.123Z WARN  inventory#2>   no \\u{1b}[31mstock\\nleft \
             digest=0123456789ab"
        );
        assert!(text(None, LINE, true).contains(" subject=order/17 trace_id=ab"));
    }

    #[test]
    fn what_is_before_the_json_is_a_label() {
        let piped = format!("host-1  | {LINE}");
        assert!(text(Some("file"), &piped, false).contains("Z host-1 WARN"));
        assert!(text(Some("file"), LINE, false).contains("Z file WARN"));
    }

    #[test]
    fn other_lines_are_none() {
        for other in ["", "host-1 | ready", "{}", "{\"timestamp\":1}", "{\"timestamp\":\"x\"}"] {
            assert_eq!(Line::parse(None, other), None, "{other}");
        }
    }
}
