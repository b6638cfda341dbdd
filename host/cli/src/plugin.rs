//! `postrider plugin`: make, build, test and look at a plugin, without any service.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::dry_run::{Case, Trial, load};
use crate::client::{Target, read_json, text};
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::runtime::{CONTRACT, InstancePolicy, Linked, WarmPolicy};

mod bindings;
mod new;
pub(crate) mod project;
pub(crate) mod test;
pub(crate) mod dry_run;

/// Plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Make a folder with a working stage, in the language of choice.
    New(new::NewArgs),
    /// Run a stage's fixtures and compare what comes out with what was recorded. Exit code 1 when
    /// something differs.
    Test(test::TestArgs),
    /// Write the contract as source code.
    Bindings(bindings::BindingsArgs),
    /// Say whether a host would take the file, and if not, why.
    Check {
        /// A component, or a core module that carries its component type.
        file: PathBuf,
        /// A configuration: show what the plugin asks for against what its stages are granted. Exit
        /// code 1 when something is missing.
        #[arg(long, value_name = "CONFIG")]
        grants: Option<PathBuf>,
        /// Only as this stage; default: every stage that the configuration lets run the file.
        #[arg(long, requires = "grants")]
        stage: Option<String>,
    },
    /// Show what the file says about itself and what it asks for.
    Inspect {
        /// A component, or a core module that carries its component type.
        file: PathBuf,
    },
    /// Which versions served a stage of a running host, newest first.
    History {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
    },
    /// Put an earlier version back on a running host: the last one that was another, or that of a
    /// digest.
    Rollback {
        #[command(flatten)]
        target: Target,
        /// The stage.
        stage: String,
        /// The digest, or its beginning.
        digest: Option<String>,
    },
    /// Run one event through it and show the outcome. Exit code 1 when it fails.
    Run(RunArgs),
}

/// One event through a plugin.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The plugin.
    file: PathBuf,
    /// The event `{"type", "subject"?, "id"?, "data"}`, or a case of `plugin test`, as a JSON file,
    /// or - for standard input.
    #[arg(long)]
    event: String,
    /// The stage's state before: a JSON object of keys and values, added to the case's.
    #[arg(long)]
    state: Option<String>,
    /// A setting, as key=value; may be given often.
    #[arg(long = "setting", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Run it so many times, each on the same state, and say how long a call takes.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Keep the instance from call to call, as `instances = "warm"` does; otherwise each call has a
    /// fresh one.
    #[arg(long)]
    warm: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: PluginCommand, json: bool) -> Result<ExitCode> {
    match command {
        PluginCommand::New(args) => new::run(args, json),
        PluginCommand::Test(args) => test::run(args, json).await,
        PluginCommand::Bindings(args) => bindings::run(args),
        PluginCommand::Check { file, grants: Some(config), stage } => {
            crate::grants::check(&load(&file).await?, &file, &config, stage.as_deref(), json)
        }
        PluginCommand::Check { file, .. } => {
            let linked = load(&file).await?;
            let said = json!({ "ok": true, "stage": linked.description.name, "version": linked.description.version, "contract": CONTRACT });
            show(&said, json, |said| {
                println!("{} {} fits {CONTRACT}", text(&said["stage"]), text(&said["version"]))
            });
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Inspect { file } => {
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            show(&inspect(&load(&file).await?, &bytes), json, |said| println!("{said:#}"));
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::History { target, stage } => {
            let answer = target.get(&format!("/plugins/{stage}/history")).await?;
            show(&answer, json, history);
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Rollback { target, stage, digest } => {
            let answer = target
                .post(&format!("/plugins/{stage}/rollback"), &json!({ "digest": digest }))
                .await?;
            show(&answer, json, |said| println!("{} serves {stage}", text(&said["digest"])));
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Run(args) => run_one(args, json).await,
    }
}

fn show(said: &Value, json: bool, text: impl Fn(&Value)) {
    if json { println!("{said:#}") } else { text(said) }
}

fn history(answer: &Value) {
    for load in answer["items"].as_array().into_iter().flatten() {
        let at = load["loaded_at_ms"]
            .as_i64()
            .and_then(|at| jiff::Timestamp::from_millisecond(at).ok())
            .unwrap_or_default();
        println!(
            "{at:.0}  {:<10} {}  on {}",
            text(&load["version"]),
            text(&load["digest"]),
            text(&load["host"])
        );
    }
}

fn inspect(linked: &Linked, bytes: &[u8]) -> Value {
    json!({
        "digest": &*linked.digest,
        "size_bytes": bytes.len(),
        "description": &*linked.description,
        "imports": linked.imports,
        "contract": CONTRACT,
        "made_with": postrider::runtime::producers(bytes),
    })
}

async fn run_one(args: RunArgs, json: bool) -> Result<ExitCode> {
    let instances =
        if args.warm { InstancePolicy::Warm(WarmPolicy::default()) } else { InstancePolicy::Fresh };
    let trial = Trial::load(&args.file, instances).await?;
    let mut case = Case::parse(read_json(&args.event)?).context("--event")?;
    if let Some(place) = &args.state {
        let state = serde_json::from_value(read_json(place)?)
            .context("--state: expected a JSON object of keys and values")?;
        case.state.append(&mut { state });
    }
    case.config.extend(args.settings);
    let tried = trial.run(&case, SystemClock.now_ms(), args.repeat).await;
    let mut said = tried.decision();
    said["logs"] = tried.logs.clone();
    said["cost"] = tried.cost();
    show(&said, json, |said| println!("{said:#}"));
    Ok(if tried.is_done() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
