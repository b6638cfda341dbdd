//! Dead letters, groups and jobs as text.

use console::style;
use serde_json::Value;

use crate::client::text;
use crate::table::{self, column};

/// A value as a table cell; `-` for null.
fn cell(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { text(value) }
}

fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["items"].as_array().into_iter().flatten()
}

fn next_page(answer: &Value) {
    if let Some(next) = answer["next"].as_i64() {
        outln!("more results: --cursor {next}");
    }
}

pub(super) fn list(answer: &Value) {
    let row = |dead_letter: &Value| {
        let event = &dead_letter["event"];
        vec![
            text(&dead_letter["id"]),
            cell(&dead_letter["stage"]),
            cell(&dead_letter["code"]),
            cell(&event["subject"]),
            table::time(&dead_letter["dead_lettered_at_ms"]),
            cell(&event["type"]),
            dead_letter["group"]["id"].as_str().unwrap_or("-").to_owned(),
            cell(&dead_letter["message"]).replace('\n', " "),
        ]
    };
    let rows: Vec<Vec<String>> = items(answer).map(row).collect();
    if rows.is_empty() {
        outln!("no dead letters match");
        return;
    }
    let columns = [
        column("ID"),
        column("STAGE"),
        column("CODE"),
        column("SUBJECT"),
        column("DEAD-LETTERED"),
        column("EVENT").optional(),
        column("GROUP").optional(),
        column("MESSAGE").text(),
    ];
    table::print(&columns, &rows);
    next_page(answer);
}

pub(super) fn groups(answer: &Value) {
    let row = |group: &Value| {
        let mut row = vec![cell(&group["id"]), cell(&group["stage"]), cell(&group["code"])];
        row.extend(["open", "replayed", "discarded"].map(|status| text(&group[status])));
        row.extend([
            table::time(&group["last_at_ms"]),
            text(&group["example"]),
            cell(&group["fingerprint"]),
        ]);
        row
    };
    let rows: Vec<Vec<String>> = items(answer).map(row).collect();
    if rows.is_empty() {
        outln!("no dead letters match");
        return;
    }
    let columns = [
        column("GROUP"),
        column("STAGE"),
        column("CODE"),
        column("OPEN"),
        column("REPLAYED").optional(),
        column("DISCARDED").optional(),
        column("LAST"),
        column("EXAMPLE").optional(),
        column("FINGERPRINT").text(),
    ];
    table::print(&columns, &rows);
    next_page(answer);
}

fn field(name: &str, value: &str) {
    outln!("{:<13} {value}", style(name).dim());
}

pub(super) fn dead_letter(dead_letter: &Value) {
    let event = &dead_letter["event"];
    let status = table::state(&text(&dead_letter["status"]));
    outln!("{} {}, {status}", style("dead letter").bold(), style(&dead_letter["id"]).bold());
    field("stage", &format!("{}, round {}", cell(&dead_letter["stage"]), dead_letter["round"]));
    field("dead-lettered", &table::time(&dead_letter["dead_lettered_at_ms"]));
    field(
        "error",
        &format!("{}: {}", style(cell(&dead_letter["code"])).red(), cell(&dead_letter["message"])),
    );
    if let Some(group) = dead_letter["group"]["id"].as_str() {
        field("group", &format!("{group}: {}", cell(&dead_letter["group"]["fingerprint"])));
    }
    field("plugin", &cell(&dead_letter["digest"]));
    field(
        "event",
        &format!("{} {} from {}", cell(&event["type"]), cell(&event["id"]), cell(&event["source"])),
    );
    field(
        "subject",
        &format!("{}, subject {}", cell(&event["subject"]), cell(&dead_letter["subject_key"])),
    );
    if dead_letter["status"] != "open" {
        field(
            "settled",
            &format!("{}{}", table::time(&dead_letter["settled_at_ms"]), note(dead_letter)),
        );
    }
    for (name, value) in event["attributes"].as_object().into_iter().flatten() {
        field(name, &cell(value));
    }
    replayed_as(&dead_letter["replayed_as"]);
    attempts(dead_letter);
    outln!("{}", style("payload").bold());
    outln!("{:#}", dead_letter["data"]);
}

fn note(dead_letter: &Value) -> String {
    dead_letter["note"].as_str().map(|note| format!(": {note}")).unwrap_or_default()
}

fn replayed_as(replay: &Value) {
    if replay.is_null() {
        return;
    }
    let payload = if replay["edited"] == true { "edited" } else { "unchanged" };
    let delivery = &replay["delivery"];
    let status = if delivery.is_null() {
        "deleted".to_owned()
    } else {
        table::state(&text(&delivery["status"]))
    };
    let event = cell(&replay["event"]["id"]);
    field("replayed as", &format!("event {event} ({payload} payload): {status}"));
}

fn attempts(dead_letter: &Value) {
    outln!("{}", style("attempts").bold());
    for attempt in dead_letter["attempts"].as_array().into_iter().flatten() {
        let took_ms = attempt["duration_us"].as_f64().unwrap_or_default() / 1_000.0;
        let digest: String = cell(&attempt["digest"]).chars().take(12).collect();
        outln!(
            "  {}.{}  {}  {took_ms:.1} ms  {digest}  {}  {}: {}",
            attempt["round"],
            attempt["attempt"],
            table::time(&attempt["at_ms"]),
            cell(&attempt["host"]),
            style(cell(&attempt["code"])).red(),
            cell(&attempt["message"]),
        );
        for frame in attempt["backtrace"].as_str().unwrap_or_default().lines() {
            outln!("       {}", style(frame).dim());
        }
    }
}

pub(super) fn settled(answer: &Value) {
    let edited = if answer["edited"] == true { " with an edited payload" } else { "" };
    outln!("dead letter {} {}{edited}", answer["id"], text(&answer["status"]));
}

pub(super) fn jobs(answer: &Value) {
    let row = |job: &Value| {
        let mut row =
            vec![cell(&job["id"]), cell(&job["action"]), table::state(&text(&job["state"]))];
        row.extend(
            ["total", "done", "skipped", "failed", "rate_per_second"].map(|name| text(&job[name])),
        );
        row.push(table::time(&job["created_at_ms"]));
        row
    };
    let rows: Vec<Vec<String>> = items(answer).map(row).collect();
    if rows.is_empty() {
        outln!("no jobs");
        return;
    }
    let columns = [
        column("JOB"),
        column("ACTION"),
        column("STATE"),
        column("TOTAL"),
        column("DONE"),
        column("SKIPPED"),
        column("FAILED"),
        column("RATE").optional(),
        column("CREATED"),
    ];
    table::print(&columns, &rows);
}

pub(super) fn job(job: &Value) {
    let past = if job["action"] == "discard" { "discarded" } else { "replayed" };
    outln!(
        "job {} {}: {} of {} {past}, {} skipped, {} failed",
        text(&job["id"]),
        table::state(&text(&job["state"])),
        job["done"],
        job["total"],
        job["skipped"],
        job["failed"],
    );
    for failure in job["failures"].as_array().into_iter().flatten() {
        outln!("  dead letter {}: {}", failure["id"], text(&failure["reason"]));
    }
}
