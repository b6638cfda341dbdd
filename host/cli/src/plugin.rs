//! `postrider plugin`: create, build, test and inspect plugins; only `list`, `history` and `rollback`
//! need a running host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::case::Case;
use self::dry_run::{DryRun, RunAs, load};
use crate::client::{Target, path, read_json};
use crate::output::Output;
use crate::scope::Scope;
use crate::value_parsers::setting;
use postrider::internals::{CONTRACT, Linked, RuntimeSettings};
use postrider::{Clock as _, Config, SystemClock};

mod new;
pub(crate) mod project;
pub(crate) mod case;
pub(crate) mod test;
pub(crate) mod dry_run;
mod bindings;
mod check;
mod permission_check;
mod show;

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
    /// Check whether a host with the present configuration would load and run a plugin.
    ///
    /// Exits with 1 if it would not.
    Check {
        /// Plugin file: a component, or a core module with an embedded component type.
        file: PathBuf,
        /// Also check that this configuration grants every permission the plugin needs, and list
        /// them; exits with 1 if one is missing.
        #[arg(long, value_name = "CONFIG")]
        grants: Option<PathBuf>,
        /// Check a single stage [default: every stage that the configuration runs with this file].
        #[arg(long)]
        stage: Option<String>,
    },
    /// Show a plugin's description, imports and producers.
    Inspect {
        /// Plugin file: a component, or a core module with an embedded component type.
        file: PathBuf,
    },
    /// List the plugins of a running host: stage, file, version and state.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// List the versions that have served a stage of a running host, newest first.
    History {
        #[command(flatten)]
        target: Target,
        /// Stage to list.
        stage: String,
    },
    /// Roll a stage back to an earlier version, on every live host that serves it from a file.
    ///
    /// Exits with 1 if a host could not follow.
    Rollback {
        #[command(flatten)]
        target: Target,
        /// Stage to roll back.
        stage: String,
        /// Digest to roll back to, or a unique prefix [default: the previous version].
        digest: Option<String>,
        /// Reason, kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Run one event through a plugin, without a host, and show what a host would do.
    ///
    /// Uses the stage's settings, limits and grants of --config if it is given. Exits with 1 if the
    /// stage fails, or if a host would not accept its outcome.
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
    /// Stage of the configuration to run the plugin as [default: the first that uses the file].
    #[arg(long)]
    stage: Option<String>,
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

/// The configuration that is named, or else the defaults and the environment.
pub(crate) fn named_config(scope: &Scope) -> Result<Config> {
    scope.one(match scope.config.as_deref() {
        Some(file) => Config::load(Some(file))?,
        None => Config::without_file()?,
    })
}

pub(crate) async fn run(command: PluginCommand, scope: &Scope, output: Output) -> Result<ExitCode> {
    match command {
        PluginCommand::New(args) => new::run(args, output),
        PluginCommand::Test(args) => test::run(args, named_config(scope)?, output).await,
        PluginCommand::Bindings(args) => bindings::run(args),
        PluginCommand::Check { file, grants, stage } => {
            let file_of = grants.as_deref().or(scope.config.as_deref());
            let config = scope.one(Config::declared(file_of)?)?;
            let linked = load(&file, &config.runtime).await?;
            let request =
                permission_check::Request { file: &file, config: &config, stage: stage.as_deref() };
            if grants.is_some() {
                permission_check::run(&linked, &request, output)
            } else {
                check::run(&linked, &request, output)
            }
        }
        PluginCommand::Inspect { file } => {
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            let linked = load(&file, &RuntimeSettings::default()).await?;
            output.print(&inspect(&linked, &bytes), |result| outln!("{result:#}"))?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::List { target } => {
            let answer = target.get("/plugins").await?;
            output.print(&answer, show::list)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::History { target, stage } => {
            let answer = target.get(&path(&["plugins", &stage, "history"])?).await?;
            output.print(&answer, show::history)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Rollback { target, stage, digest, reason } => {
            let body = json!({ "digest": digest, "reason": reason });
            let answer = target.post(&path(&["plugins", &stage, "rollback"])?, &body).await?;
            output.print(&answer, |result| show::rolled_back(&stage, result))?;
            let mut hosts = answer["hosts"].as_array().into_iter().flatten();
            let all_followed = hosts.all(|host| host["error"].is_null());
            Ok(if all_followed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        PluginCommand::Run(args) => run_one(args, named_config(scope)?, output).await,
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

async fn run_one(args: RunArgs, config: Config, output: Output) -> Result<ExitCode> {
    let run_as = RunAs { stage: args.stage.as_deref(), warm: args.warm, timed: args.repeat > 1 };
    let plugin = DryRun::load(&args.file, config, run_as).await?;
    let mut case = Case::parse(read_json(&args.event)?).context("--event")?;
    if let Some(file) = &args.state {
        let state = serde_json::from_value(read_json(file)?)
            .context("--state: expected a JSON object of keys and values")?;
        case.state.append(&mut { state });
    }
    case.config.extend(args.settings);
    let result = plugin.run(&case, SystemClock.now_ms(), args.repeat).await?;
    let mut report = result.decision();
    report["logs"] = result.logs.clone();
    report["cost"] = result.cost();
    output.print(&report, show::outcome)?;
    Ok(if result.is_done() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
