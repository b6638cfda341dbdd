//! `postrider events chains`, `stop` and `resume`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::client::{Target, path_and_query, text};
use crate::table::{self, column};

#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    #[command(flatten)]
    target: Target,
    /// The chain: the id of its first event, as `events chains` shows it.
    correlation: String,
}

impl ChainArgs {
    pub(crate) async fn stop(&self, reason: Option<&str>) -> Result<Value> {
        self.post("stop", &json!({ "reason": reason })).await
    }

    pub(crate) async fn resume(&self, reason: Option<&str>) -> Result<Value> {
        self.post("resume", &json!({ "reason": reason })).await
    }

    async fn post(&self, verb: &str, body: &Value) -> Result<Value> {
        self.target.post(&path_and_query(&["chains", &self.correlation, verb], &[])?, body).await
    }
}

pub(crate) fn list(answer: &Value) {
    let row = |chain: &Value| {
        vec![
            text(&chain["correlation_id"]),
            text(&chain["events"]),
            table::state(&text(&chain["state"])),
            table::time(&chain["first_at_ms"]),
            table::time(&chain["last_at_ms"]),
            chain["reason"].as_str().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        outln!("no chains of events");
        return;
    }
    let columns = [
        column("CHAIN"),
        column("EVENTS"),
        column("STATE"),
        column("FIRST").optional(),
        column("LAST").optional(),
        column("REASON").text(),
    ];
    table::print(&columns, &rows);
}

pub(crate) fn stopped(chain: &Value) -> String {
    format!(
        "chain {} is stopped on every host after {} events: the rest of it is skipped",
        text(&chain["correlation_id"]),
        text(&chain["events"])
    )
}

pub(crate) fn resumed(chain: &Value) -> String {
    format!("chain {} runs again, its events count from zero", text(&chain["correlation_id"]))
}
