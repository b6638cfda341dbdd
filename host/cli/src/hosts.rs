//! `postrider hosts`: the live hosts of a running host's namespace, and what each runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::client::{Target, text};
use crate::output::Output;
use crate::table::{self, column};

#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: HostsArgs, output: Output) -> Result<ExitCode> {
    output.print(&args.target.get("/hosts").await?, show)?;
    Ok(ExitCode::SUCCESS)
}

fn show(answer: &Value) {
    let items = answer["items"].as_array();
    let rows: Vec<Vec<String>> = items.into_iter().flatten().map(host).collect();
    let columns = [
        column("HOST").text(),
        column("VERSION"),
        column("API").text(),
        column("STARTED"),
        column("SEEN"),
        column("STAGES").text(),
    ];
    table::print(&columns, &rows);
}

fn host(host: &Value) -> Vec<String> {
    let stages = host["stages"].as_array().into_iter().flatten();
    let stages: Vec<String> = stages
        .map(|stage| format!("{} {}", text(&stage["stage"]), text(&stage["version"])))
        .collect();
    vec![
        text(&host["host"]),
        host["version"].as_str().unwrap_or("-").to_owned(),
        host["api"].as_str().unwrap_or("-").to_owned(),
        table::time(&host["started_at_ms"]),
        table::time(&host["seen_at_ms"]),
        if stages.is_empty() { "-".to_owned() } else { stages.join(", ") },
    ]
}
