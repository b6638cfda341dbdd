//! Plugins and outcomes as text.

use std::fmt::Write as _;

use console::style;
use serde_json::Value;

use crate::client::text;
use crate::table::{self, column};

/// Enough of a digest to tell versions apart.
const DIGEST_CHARS: usize = 12;

fn cell(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { text(value) }
}

fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["items"].as_array().into_iter().flatten()
}

pub(super) fn list(answer: &Value) {
    let row = |plugin: &Value| {
        let note = |name: &str| plugin[name].as_str().map(str::to_owned);
        let waiting = note("waiting_for").map(|what| format!("waits for {what}"));
        let warnings = plugin["warnings"].as_array().into_iter().flatten().map(text);
        let since = &plugin["compiling_since_ms"];
        let compiling = since.is_u64().then(|| format!("compiling since {}", table::time(since)));
        let notes = [note("last_error"), waiting, compiling, note("rolled_back")];
        let notes = notes.into_iter().flatten().chain(warnings);
        vec![
            cell(&plugin["stage"]),
            cell(&plugin["file"]),
            cell(&plugin["version"]),
            table::state(&text(&plugin["state"])),
            table::time(&plugin["loaded_at_ms"]),
            cell(&plugin["digest"]).chars().take(DIGEST_CHARS).collect(),
            notes.collect::<Vec<_>>().join("; "),
        ]
    };
    let rows: Vec<Vec<String>> = items(answer).map(row).collect();
    if rows.is_empty() {
        outln!("no plugins");
        return;
    }
    let columns = [
        column("STAGE"),
        column("FILE"),
        column("VERSION"),
        column("STATE"),
        column("LOADED").optional(),
        column("DIGEST").optional(),
        column("NOTE").text(),
    ];
    table::print(&columns, &rows);
}

/// What came of a roll-back on each host.
pub(super) fn rolled_back(stage: &str, result: &Value) {
    outln!("stage {stage} is rolled back to {}", text(&result["digest"]));
    for host in result["hosts"].as_array().into_iter().flatten() {
        match host["error"].as_str() {
            Some(error) => outln!("{}: not rolled back: {error}", text(&host["host"])),
            None => outln!("{}: rolled back", text(&host["host"])),
        }
    }
}

pub(super) fn history(answer: &Value) {
    let row = |load: &Value| {
        vec![
            table::time(&load["loaded_at_ms"]),
            text(&load["version"]),
            text(&load["digest"]),
            text(&load["host"]),
        ]
    };
    let rows: Vec<Vec<String>> = items(answer).map(row).collect();
    if rows.is_empty() {
        outln!("no plugin has served the stage");
        return;
    }
    let columns =
        [column("LOADED"), column("VERSION"), column("DIGEST"), column("HOST").optional()];
    table::print(&columns, &rows);
}

/// The outcome of `plugin run`.
pub(super) fn outcome(report: &Value) {
    out!("{}", outcome_text(report));
}

fn outcome_text(report: &Value) -> String {
    let mut out = headline(&report["outcome"]);
    if let Some(ms) = report["cost"]["duration_ms"]["first"].as_f64() {
        let _ = write!(out, "  {}", style(format!("{ms:.2} ms")).dim());
    }
    out.push('\n');
    for event in report["outcome"]["done"].as_array().into_iter().flatten() {
        let delay = event["delay_ms"].as_u64().filter(|delay| *delay > 0);
        let delay = delay.map(|delay| format!(" after {delay} ms")).unwrap_or_default();
        let subject = event["subject"].as_str();
        let subject = subject.map(|subject| format!(" about {subject}")).unwrap_or_default();
        let kind = style(text(&event["type"])).green();
        let _ = writeln!(out, "  → {kind}{subject}{delay} {}", event["data"]);
    }
    for frame in report["outcome"]["trapped"]["backtrace"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "     {}", style(text(frame)).dim());
    }
    let changes = report["state_changes"].as_object();
    if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
        out.push_str("state\n");
        for (key, value) in changes {
            let _ = match value {
                Value::Null => writeln!(out, "  {key} removed"),
                value => writeln!(out, "  {key} = {value}"),
            };
        }
    }
    let logs = report["logs"].as_array();
    if let Some(logs) = logs.filter(|logs| !logs.is_empty()) {
        out.push_str("log\n");
        for line in logs {
            let fields = line["fields"].as_array().into_iter().flatten();
            let fields: String =
                fields.map(|field| format!(" {}={}", text(&field[0]), text(&field[1]))).collect();
            let level = text(&line["level"]).to_uppercase();
            let _ = writeln!(out, "  {level:<5} {}{fields}", text(&line["message"]));
        }
    }
    let cost = &report["cost"];
    if cost["duration_ms"]["calls"].as_u64().is_some_and(|calls| calls > 1) {
        let times = &cost["duration_ms"];
        let _ = writeln!(
            out,
            "{} calls: p50 {} ms, p95 {} ms",
            times["calls"], times["p50"], times["p95"]
        );
    }
    if let Some(bytes) = cost["memory_bytes"].as_f64() {
        let _ = writeln!(out, "{}", style(format!("memory {:.1} MB", bytes / 1e6)).dim());
    }
    out
}

fn headline(outcome: &Value) -> String {
    let Some((kind, detail)) = outcome.as_object().and_then(|outcome| outcome.iter().next()) else {
        return "no outcome".to_owned();
    };
    let said = |code: &str| format!("{}: {}", text(&detail[code]), text(&detail["message"]));
    match kind.as_str() {
        "done" => style("done").green().bold().to_string(),
        "refused" => format!("{} {}", style("refused").red().bold(), said("code")),
        "failed" => {
            let again = if detail["retryable"] == true { "retryable" } else { "permanent" };
            format!("{} ({again}) {}", style("failed").red().bold(), said("code"))
        }
        "trapped" => format!("{} {}", style("trapped").red().bold(), said("kind")),
        "limit" => format!("{} {}", style("limit exceeded").red().bold(), said("name")),
        other => format!("{} {}", style(other).red().bold(), text(detail)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn outcomes_are_shown_as_text() {
        let done = json!({
            "outcome": { "done": [
                { "type": "a.b", "subject": null, "delay_ms": 0, "data": { "x": 1 } },
                { "type": "c", "subject": "7", "delay_ms": 5, "data": null },
            ] },
            "state_changes": { "n": 1, "old": null },
            "logs": [{ "level": "info", "message": "hello", "fields": [["k", "v"]] }],
            "cost": { "duration_ms": { "first": 0.4, "p50": 0.3, "p95": 0.5, "calls": 3 }, "memory_bytes": 1_200_000 },
        });
        let shown = console::strip_ansi_codes(&outcome_text(&done)).into_owned();
        assert_eq!(
            shown,
            "done  0.40 ms\n  → a.b {\"x\":1}\n  → c about 7 after 5 ms null\nstate\n  n = 1\n  old removed\n\
             log\n  INFO  hello k=v\n3 calls: p50 0.3 ms, p95 0.5 ms\nmemory 1.2 MB\n"
        );
        let refused =
            json!({ "outcome": { "refused": { "code": "undeclared-event", "message": "m" } } });
        let shown = console::strip_ansi_codes(&outcome_text(&refused)).into_owned();
        assert_eq!(shown, "refused undeclared-event: m\n");
    }
}
