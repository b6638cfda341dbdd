//! `postrider limits`: how much of each limit of a running host is used, and by whom.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::Value;

use crate::client::{Target, text};
use crate::output::Output;
use crate::table::{self, column};

#[derive(Debug, Args)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: LimitsArgs, output: Output) -> Result<ExitCode> {
    output.print(&args.target.get("/limits").await?, show)?;
    Ok(ExitCode::SUCCESS)
}

fn show(answer: &Value) {
    let rows: Vec<Vec<String>> = items(&answer["limits"]).map(limit).collect();
    table::print(
        &[column("LIMIT"), column("USED"), column("MAX"), column("SETTING").text()],
        &rows,
    );
    for (heading, clients) in
        [("PRINCIPAL", &answer["principals"]), ("ADDRESS", &answer["addresses"])]
    {
        let rows: Vec<Vec<String>> = items(clients).map(client).collect();
        if rows.is_empty() {
            continue;
        }
        outln!();
        let columns = [
            column(heading),
            column("BYTES"),
            column("IN PROGRESS"),
            column("LAST MINUTE"),
            column("REFUSED"),
        ];
        table::print(&columns, &rows);
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn limit(limit: &Value) -> Vec<String> {
    let name = match limit["stage"].as_str() {
        Some(stage) => format!("{} of {stage}", text(&limit["limit"])),
        None => text(&limit["limit"]),
    };
    let setting = limit["setting"].as_str().unwrap_or("-").to_owned();
    let number = |field: &str| match limit["unit"].as_str() {
        Some("bytes") => bytes(&limit[field]),
        _ => text(&limit[field]),
    };
    vec![name, number("used"), number("max"), setting]
}

fn client(client: &Value) -> Vec<String> {
    vec![
        text(&client["client"]),
        bytes(&client["bytes_in_progress"]),
        text(&client["requests_in_progress"]),
        text(&client["requests_last_minute"]),
        text(&client["refused"]),
    ]
}

fn bytes(number: &Value) -> String {
    number.as_u64().map_or_else(|| text(number), |bytes| HumanBytes(bytes).to_string())
}
