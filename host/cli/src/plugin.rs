//! `postrider plugin`: create, build, test and inspect plugins; only `history` and `rollback` need a
//! running host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::dry_run::{Case, DryRun, load};
use crate::client::{Target, read_json, text};
use crate::output::Output;
use crate::{permission_check, table};
use postrider::internals::{CONTRACT, InstancePolicy, Linked, WarmPolicy};
use postrider::{Clock as _, Description, SystemClock};

mod new;
pub(crate) mod project;
pub(crate) mod test;
pub(crate) mod dry_run;
mod bindings;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Create a project with a working stage in a language of your choice.
    New(new::NewArgs),
    /// Run a stage's fixtures and compare the outcomes with the recorded ones.
    ///
    /// Exits with 1 if an outcome differs.
    Test(test::TestArgs),
    /// Generate language bindings of the plugin contract.
    Bindings(bindings::BindingsArgs),
    /// Check whether a host would load a plugin.
    Check {
        /// Plugin file: a component, or a core module with an embedded component type.
        file: PathBuf,
        /// Also check that this configuration grants every permission the plugin needs; exits with
        /// 1 if one is missing.
        #[arg(long, value_name = "CONFIG")]
        grants: Option<PathBuf>,
        /// Check a single stage [default: every stage that the configuration runs with this file].
        #[arg(long, requires = "grants")]
        stage: Option<String>,
    },
    /// Show a plugin's description, imports and producers.
    Inspect {
        /// Plugin file: a component, or a core module with an embedded component type.
        file: PathBuf,
    },
    /// List the versions that have served a stage of a running host, newest first.
    History {
        #[command(flatten)]
        target: Target,
        /// Stage to list.
        stage: String,
    },
    /// Roll a stage of a running host back to an earlier version.
    Rollback {
        #[command(flatten)]
        target: Target,
        /// Stage to roll back.
        stage: String,
        /// Digest to roll back to, or a unique prefix [default: the previous version].
        digest: Option<String>,
    },
    /// Run one event through a plugin, without a host, and show the outcome.
    ///
    /// Exits with 1 if the stage fails.
    Run(RunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Plugin file.
    file: PathBuf,
    /// Event `{"type", "subject"?, "id"?, "data"}`, or fixture of `plugin test`: a JSON file, or -
    /// for standard input.
    #[arg(long, value_name = "FILE")]
    event: String,
    /// Initial state of the stage: a JSON object of keys and values, added to the fixture's.
    #[arg(long, value_name = "FILE")]
    state: Option<String>,
    /// Setting of the stage; repeat the option for several.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Run the event this many times, always from the same state, and report the call times.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Reuse one instance for all calls, like `instances = "warm"`, instead of a fresh one per call.
    #[arg(long)]
    warm: bool,
}

pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: PluginCommand, output: Output) -> Result<ExitCode> {
    match command {
        PluginCommand::New(args) => new::run(args, output),
        PluginCommand::Test(args) => test::run(args, output).await,
        PluginCommand::Bindings(args) => bindings::run(args),
        PluginCommand::Check { file, grants: Some(config), stage } => {
            let request =
                permission_check::Request { file: &file, config: &config, stage: stage.as_deref() };
            permission_check::run(&load(&file).await?, &request, output)
        }
        PluginCommand::Check { file, .. } => {
            let linked = load(&file).await?;
            let Description { name, version, .. } = &*linked.description;
            let result =
                json!({ "ok": true, "stage": name, "version": version, "contract": CONTRACT });
            output.print(&result, |_| println!("ok: {name} {version} implements {CONTRACT}"))?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Inspect { file } => {
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            output.print(&inspect(&load(&file).await?, &bytes), |result| println!("{result:#}"))?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::History { target, stage } => {
            let answer = target.get(&format!("/plugins/{stage}/history")).await?;
            output.print(&answer, history)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Rollback { target, stage, digest } => {
            let answer = target
                .post(&format!("/plugins/{stage}/rollback"), &json!({ "digest": digest }))
                .await?;
            output.print(&answer, |result| {
                println!("stage {stage} is rolled back to {}", text(&result["digest"]));
            })?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Run(args) => run_one(args, output).await,
    }
}

fn history(answer: &Value) {
    for load in answer["items"].as_array().into_iter().flatten() {
        println!(
            "{}  {:<10} {}  on {}",
            table::time(&load["loaded_at_ms"]),
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
        "producers": postrider::internals::producers(bytes),
    })
}

async fn run_one(args: RunArgs, output: Output) -> Result<ExitCode> {
    let instances =
        if args.warm { InstancePolicy::Warm(WarmPolicy::default()) } else { InstancePolicy::Fresh };
    let plugin = DryRun::load(&args.file, instances).await?;
    let mut case = Case::parse(read_json(&args.event)?).context("--event")?;
    if let Some(file) = &args.state {
        let state = serde_json::from_value(read_json(file)?)
            .context("--state: expected a JSON object of keys and values")?;
        case.state.append(&mut { state });
    }
    case.config.extend(args.settings);
    let result = plugin.run(&case, SystemClock.now_ms(), args.repeat).await;
    let mut report = result.decision();
    report["logs"] = result.logs.clone();
    report["cost"] = result.cost();
    output.print(&report, |report| println!("{report:#}"))?;
    Ok(if result.is_done() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
