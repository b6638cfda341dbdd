//! `postrider stages`: list, pause, drain, resume.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Target, text};

/// Stages of a running host.
#[derive(Debug, Subcommand)]
pub(super) enum StagesCommand {
    /// How each stage stands: version, operators' word, circuit breaker, messages that wait.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Finish what is under way and hold the rest, on every host, until resumed.
    Pause(Word),
    /// Finish what the hosts hold and take nothing more.
    Drain(Word),
    /// Go on.
    Resume(Word),
    /// Route nothing to a stage any more that no host runs; what is in its queue stays there.
    Forget {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
    },
}

/// An operator's word.
#[derive(Debug, Args)]
pub(super) struct Word {
    #[command(flatten)]
    target: Target,
    /// The stage.
    stage: String,
    /// Why; shown to whoever looks.
    #[arg(long)]
    reason: Option<String>,
}

impl Word {
    async fn say(self, verb: &str) -> Result<Value> {
        self.target.post(&format!("/stages/{}/{verb}", self.stage), &json!({ "reason": self.reason })).await
    }
}

pub(super) async fn run(command: StagesCommand, json: bool) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        StagesCommand::List { target } => (target.get("/stages").await?, list),
        StagesCommand::Pause(word) => (word.say("pause").await?, said),
        StagesCommand::Drain(word) => (word.say("drain").await?, said),
        StagesCommand::Resume(word) => (word.say("resume").await?, said),
        StagesCommand::Forget { target, stage } => (target.delete(&format!("/stages/{stage}")).await?, said),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        show(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) {
    for stage in answer["items"].as_array().into_iter().flatten() {
        println!(
            "{:<20} {:<10} {:<9} breaker {:<10} {} waiting  {}",
            text(&stage["stage"]),
            text(&stage["version"]),
            text(&stage["control"]),
            text(&stage["breaker"]),
            stage["waiting"],
            stage["reason"].as_str().unwrap_or(""),
        );
    }
}

fn said(answer: &Value) {
    println!("stage {} is {}", text(&answer["stage"]), text(&answer["state"]));
}
