//! `postrider stages`: list, pause, drain, resume and delete the stages, and set their log level, of a running host.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::client::{Target, path, text};
use crate::output::Output;
use crate::table::{self, column};
use crate::value_parsers::duration_ms;

/// How often `drain --wait` polls the host.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum StagesCommand {
    /// List the stages of all live hosts: version, control, circuit breaker and waiting messages.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Pause a stage on every host: finish running messages and hold the rest until resumed.
    ///
    /// The pause survives restarts.
    Pause(ControlArgs),
    /// Drain a stage on every host: finish the messages already received and receive no more.
    Drain {
        #[command(flatten)]
        control: ControlArgs,
        /// Wait until the live hosts hold no more messages of the stage. Messages in the queue stay
        /// there.
        #[arg(long)]
        wait: bool,
    },
    /// Resume a paused or draining stage on every host.
    Resume(ControlArgs),
    /// Close the circuit breaker of a stage on every live host: its messages run, until enough of them
    /// fail again.
    CloseBreaker {
        #[command(flatten)]
        target: Target,
        /// Stage whose breaker to close.
        stage: String,
        /// Reason, kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Set how much is logged about the deliveries of a stage and by the stage itself, on every host.
    LogLevel {
        #[command(flatten)]
        target: Target,
        /// Stage whose lines to change.
        stage: String,
        /// error, warn, info, debug, trace, or default for the filter of each host's process.
        level: Level,
        /// How long, such as 15m [default: until it is set again].
        #[arg(long = "for", value_name = "TIME", value_parser = duration_ms)]
        duration_ms: Option<u64>,
        /// Reason, kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete a stage that no live host runs: new events are no longer routed to it, and what waits
    /// for it is skipped.
    ///
    /// Messages in its queue stay there; a later stage of this name ignores them.
    Delete {
        #[command(flatten)]
        target: Target,
        /// Stage to delete.
        stage: String,
    },
}

/// The level of a stage's log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Default,
}

impl Level {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    target: Target,
    /// Stage to control.
    stage: String,
    /// Reason, shown by `stages list`.
    #[arg(long)]
    reason: Option<String>,
}

impl ControlArgs {
    async fn set_control(&self, verb: &str) -> Result<Value> {
        self.target
            .post(&path(&["stages", &self.stage, verb])?, &json!({ "reason": self.reason }))
            .await
    }

    /// Waits until the stage is drained on every live host; returns its status.
    async fn wait_until_drained(&self) -> Result<Value> {
        let progress = indicatif::ProgressBar::new_spinner()
            .with_message(format!("waiting for {} to drain", self.stage));
        loop {
            let stages = self.target.get("/stages").await?;
            let found = stages["items"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|stage| stage["stage"] == self.stage.as_str());
            let Some(stage) = found else { bail!("the host has no stage `{}`", self.stage) };
            ensure!(
                stage["control"] == "draining",
                "another operator changed the control of `{}` to {}",
                self.stage,
                text(&stage["control"])
            );
            // A stage that no plugin runs holds no messages.
            if matches!(stage["consumption"].as_str(), Some("drained" | "idle")) {
                progress.finish_and_clear();
                return Ok(stage.clone());
            }
            progress.tick();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

pub(crate) async fn run(command: StagesCommand, output: Output) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        StagesCommand::List { target } => (target.get("/stages").await?, list),
        StagesCommand::Pause(args) => (args.set_control("pause").await?, control),
        StagesCommand::Drain { control: args, wait: false } => {
            (args.set_control("drain").await?, control)
        }
        StagesCommand::Drain { control: args, wait: true } => {
            args.set_control("drain").await?;
            (args.wait_until_drained().await?, drained)
        }
        StagesCommand::Resume(args) => (args.set_control("resume").await?, control),
        StagesCommand::CloseBreaker { target, stage, reason } => {
            let path = path(&["stages", &stage, "breaker", "close"])?;
            (target.post(&path, &json!({ "reason": reason })).await?, breaker)
        }
        StagesCommand::LogLevel { target, stage, level, duration_ms, reason } => {
            let mut body = json!({ "level": level.name(), "reason": reason });
            if let Some(duration_ms) = duration_ms {
                body["duration_ms"] = duration_ms.into();
            }
            (target.post(&path(&["stages", &stage, "log-level"])?, &body).await?, log_level)
        }
        StagesCommand::Delete { target, stage } => {
            (target.delete(&path(&["stages", &stage])?).await?, deleted)
        }
    };
    output.print(&answer, show)?;
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) {
    let cell = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
    let row = |stage: &Value| {
        let mut row = vec![cell(&stage["stage"]), cell(&stage["version"])];
        row.push(table::state(&cell(&stage["control"])));
        // Without a plugin, the control alone says nothing about what the stage does.
        row.push(if stage["version"].is_null() {
            table::state("no plugin")
        } else {
            table::state(&cell(&stage["consumption"]))
        });
        row.push(table::state(&cell(&stage["breaker"])));
        row.extend([
            cell(&stage["waiting"]),
            cell(&stage["log_level"]),
            table::time(&stage["next_probe_at_ms"]),
            table::time(&stage["since_ms"]),
            reasons(stage),
        ]);
        row
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        outln!("no stages");
        return;
    }
    let columns = [
        column("STAGE"),
        column("VERSION").optional(),
        column("CONTROL"),
        column("CONSUMPTION"),
        column("BREAKER"),
        column("WAITING"),
        column("LOG LEVEL").optional(),
        column("NEXT PROBE").optional(),
        column("SINCE").optional(),
        column("REASON").text(),
    ];
    table::print(&columns, &rows);
}

/// Why a stage does not run: the operator's reason, and that of its circuit breaker.
fn reasons(stage: &Value) -> String {
    let reasons = ["reason", "breaker_reason"].map(|name| stage[name].as_str());
    reasons.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn breaker(stage: &Value) {
    outln!(
        "the circuit breaker of stage {} is {}; {} messages wait",
        text(&stage["stage"]),
        text(&stage["breaker"]),
        text(&stage["waiting"])
    );
}

fn log_level(stage: &Value) {
    let level = stage["log_level"].as_str().unwrap_or("default");
    let until = match stage["log_level_until_ms"].as_u64() {
        Some(_) => format!(" until {}", table::time(&stage["log_level_until_ms"])),
        None => String::new(),
    };
    outln!("stage {} logs at level {level}{until}, on every host", text(&stage["stage"]));
}

fn drained(stage: &Value) {
    let waiting = stage["waiting"]
        .as_u64()
        .map(|waiting| format!("; {waiting} messages in its queue"))
        .unwrap_or_default();
    outln!("stage {} is drained{waiting}", text(&stage["stage"]));
}

fn deleted(answer: &Value) {
    outln!(
        "stage {} is deleted; skipped {} deliveries that waited for it",
        text(&answer["stage"]),
        text(&answer["skipped"])
    );
}

fn control(answer: &Value) {
    outln!("stage {} is {}", text(&answer["stage"]), text(&answer["state"]));
}
