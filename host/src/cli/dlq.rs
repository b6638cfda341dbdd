//! `postrider dlq`: list, show, replay, discard.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Target, read_json, text};

/// Dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List the open ones, newest first.
    List {
        #[command(flatten)]
        target: Target,
        /// Only this stage.
        #[arg(long)]
        stage: Option<String>,
    },
    /// Show one with its payload and its failed tries.
    Show {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: i64,
    },
    /// Run one again.
    Replay {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: i64,
        /// New payload: JSON file, or - for standard input.
        #[arg(long)]
        data: Option<String>,
    },
    /// Close one for good.
    Discard {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: i64,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

pub(super) async fn run(command: DlqCommand, json: bool) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        DlqCommand::List { target, stage } => {
            let stage = stage.map(|stage| format!("&stage={stage}")).unwrap_or_default();
            (target.get(&format!("/dead-letters?status=open{stage}")).await?, list)
        }
        DlqCommand::Show { target, id } => (target.get(&format!("/dead-letters/{id}")).await?, letter),
        DlqCommand::Replay { target, id, data } => {
            let body = data.as_deref().map(read_json).transpose()?.map_or(json!({}), |data| json!({ "data": data }));
            (target.post(&format!("/dead-letters/{id}/replay"), &body).await?, settled)
        }
        DlqCommand::Discard { target, id, reason } => {
            (target.post(&format!("/dead-letters/{id}/discard"), &json!({ "reason": reason })).await?, settled)
        }
    };
    if json {
        println!("{answer:#}");
    } else {
        show(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) {
    for letter in answer["items"].as_array().into_iter().flatten() {
        line(letter);
    }
    if answer["items"].as_array().is_some_and(Vec::is_empty) {
        println!("no open dead letters");
    }
}

fn line(letter: &Value) {
    let event = &letter["event"];
    println!(
        "{:>6}  {:<14} {:<20} {:<22} {}",
        letter["id"],
        text(&letter["stage"]),
        text(&event["type"]),
        text(&letter["code"]),
        text(&event["subject"])
    );
}

fn letter(letter: &Value) {
    line(letter);
    println!("  {}", text(&letter["message"]));
    for attempt in letter["attempts"].as_array().into_iter().flatten() {
        println!("  attempt {}: {}: {}", attempt["attempt"], text(&attempt["code"]), text(&attempt["message"]));
        for frame in attempt["backtrace"].as_str().unwrap_or_default().lines() {
            println!("    {frame}");
        }
    }
    println!("{:#}", letter["data"]);
}

fn settled(answer: &Value) {
    println!("dead letter {} is {}", answer["id"], text(&answer["status"]));
}
