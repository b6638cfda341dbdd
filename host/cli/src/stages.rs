//! `postrider stages`: list, pause, drain (and wait until it is), resume, forget.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Target, text};
use crate::table;

/// How often `drain --wait` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Stages of a running host.
#[derive(Debug, Subcommand)]
pub(crate) enum StagesCommand {
    /// How each stage stands: version, operators' word, circuit breaker, messages that wait.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Finish what is under way and hold the rest, on every host, until resumed.
    Pause(Word),
    /// Finish what the hosts hold and take nothing more.
    Drain {
        #[command(flatten)]
        word: Word,
        /// Wait until the host that is asked holds nothing of the stage any more. What is in the
        /// queue stays there.
        #[arg(long)]
        wait: bool,
    },
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
pub(crate) struct Word {
    #[command(flatten)]
    target: Target,
    /// The stage.
    stage: String,
    /// Why; shown to whoever looks.
    #[arg(long)]
    reason: Option<String>,
}

impl Word {
    async fn say(&self, verb: &str) -> Result<Value> {
        self.target
            .post(&format!("/stages/{}/{verb}", self.stage), &json!({ "reason": self.reason }))
            .await
    }

    /// Follows the stage until it is drained; how it stands then.
    async fn drained(&self) -> Result<Value> {
        let progress = indicatif::ProgressBar::new_spinner()
            .with_message(format!("{} finishes what it holds", self.stage));
        loop {
            let stages = self.target.get("/stages").await?;
            let found = stages["items"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|stage| stage["stage"] == self.stage.as_str());
            let Some(stage) = found else {
                bail!("the host does not know the stage `{}` any more", self.stage)
            };
            ensure!(
                stage["control"] == "draining",
                "somebody else said that `{}` be {}",
                self.stage,
                text(&stage["control"])
            );
            // A stage that no plugin runs here holds nothing.
            if matches!(stage["consumption"].as_str(), Some("drained" | "idle")) {
                progress.finish_and_clear();
                return Ok(stage.clone());
            }
            progress.tick();
            tokio::time::sleep(LOOK).await;
        }
    }
}

pub(crate) async fn run(command: StagesCommand, json: bool) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        StagesCommand::List { target } => (target.get("/stages").await?, list),
        StagesCommand::Pause(word) => (word.say("pause").await?, said),
        StagesCommand::Drain { word, wait: false } => (word.say("drain").await?, said),
        StagesCommand::Drain { word, wait: true } => {
            word.say("drain").await?;
            (word.drained().await?, drained)
        }
        StagesCommand::Resume(word) => (word.say("resume").await?, said),
        StagesCommand::Forget { target, stage } => {
            (target.delete(&format!("/stages/{stage}")).await?, said)
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        show(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) {
    let cell = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
    let row = |stage: &Value| {
        let mut row = vec![cell(&stage["stage"]), cell(&stage["version"])];
        row.extend(
            ["control", "consumption", "breaker"].map(|name| table::state(&text(&stage[name]))),
        );
        row.extend([
            cell(&stage["waiting"]),
            table::time(&stage["since_ms"]),
            stage["reason"].as_str().unwrap_or("").to_owned(),
        ]);
        row
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    table::print(
        &["STAGE", "VERSION", "CONTROL", "CONSUMPTION", "BREAKER", "WAITING", "SINCE", "REASON"],
        &rows,
    );
}

fn drained(stage: &Value) {
    let waiting = stage["waiting"]
        .as_u64()
        .map(|waiting| format!("; {waiting} messages wait in its queue"))
        .unwrap_or_default();
    println!("stage {} is drained on this host{waiting}", text(&stage["stage"]));
}

fn said(answer: &Value) {
    println!("stage {} is {}", text(&answer["stage"]), text(&answer["state"]));
}
