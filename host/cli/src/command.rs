//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the host cannot be reached.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::telemetry::{self, LogFormat};
use postrider::config::Config;

use crate::{bench, client, dev, dlq, doctor, events, host, orders, plugin, replay, stages};

/// Runs an order pipeline whose stages are sandboxed WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// Configuration file; default: config/postrider.toml where it exists.
    #[arg(long, global = true, env = "POSTRIDER_CONFIG")]
    config: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, global = true, env = "POSTRIDER_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and run the stages until told to stop.
    Serve,
    /// Serve while stages are written: rebuild, reload and show outcomes at every save.
    Dev(dev::DevArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Draw the pipeline that the plugins make.
    Topology,
    /// Find what is wrong with the set-up, and how to mend it: configuration, store, broker,
    /// plugins, clock, disk.
    ///
    /// Changes nothing; a host may run meanwhile. Exit code 1 when something does not work.
    Doctor,
    /// Look at a plugin file and try it, without any service.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Submit orders, list them and follow them.
    #[command(subcommand)]
    Orders(orders::OrdersCommand),
    /// The event log: follow it, take it out, bring events in.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Dead letters: what needs a person.
    #[command(subcommand)]
    Dlq(Box<dlq::DlqCommand>),
    /// Stages: how they stand; pause, drain and resume them.
    #[command(subcommand)]
    Stages(stages::StagesCommand),
    /// Run recorded events through another build of their stage, and say what it would have decided
    /// otherwise.
    ///
    /// Nothing is written and nothing is sent. Exit code 1 when a decision differs.
    Replay(replay::ReplayArgs),
    /// Bring the schema of a Postgres store up to date, and nothing else.
    Migrate,
    /// Measure a host started for the purpose.
    Bench(bench::BenchArgs),
    /// Print the OpenAPI 3.1 document of the HTTP API, as a host serves it at `/openapi.json`.
    Openapi,
    /// Print what a shell needs to complete this program's commands: `postrider completions bash >
    /// …`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem; with --json print the whole configuration with its defaults.
    Check,
}

/// Runs a command line.
pub async fn run(cli: Cli) -> ExitCode {
    // Whoever develops reads outcomes; of the log, what stages write and what goes wrong.
    let default = match cli.command {
        Command::Dev(_) => "error,postrider::guest=info",
        // What is wrong is its answer.
        Command::Doctor => "off",
        _ => telemetry::DEFAULT,
    };
    telemetry::init(cli.log_format, default);
    match dispatch(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("postrider: {error:#}");
            if error.is::<client::Unreachable>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Serve => host::serve(config).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Config(ConfigCommand::Check) => host::check_config(config, cli.json),
        Command::Topology => host::topology(config, cli.json).await,
        Command::Doctor => doctor::run(config, cli.json).await,
        Command::Plugin(command) => plugin::run(command, cli.json).await,
        Command::Orders(command) => orders::run(command, cli.json).await,
        Command::Dlq(command) => dlq::run(*command, cli.json).await,
        Command::Events(command) => events::run(command, cli.json).await,
        Command::Stages(command) => stages::run(command, cli.json).await,
        Command::Replay(args) => replay::run(Config::load(config)?, args, cli.json).await,
        Command::Migrate => host::migrate(config).await,
        Command::Bench(args) => bench::run(Config::load(config)?, args, cli.json).await,
        Command::Openapi => {
            println!("{:#}", postrider::http::document());
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "postrider",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_clashes_with_another() {
        Cli::command().debug_assert();
    }
}
