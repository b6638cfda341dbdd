//! The command line: global options, the table of commands, and the exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::output::{self, Output};
use crate::scope::Scope;
use crate::telemetry::{self, LogFormat};
use crate::{
    audit, bench, broker, client, compiler, dev, dlq, doctor, encryption, events, host, hosts,
    keys, limits, logs, plugin, replay, stages, subjects,
};
use postrider::Config;

/// The exit codes of every command.
const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  the command failed, or the check it makes did not pass
  2  invalid arguments
  3  the host is unreachable";

/// Heading of the options that every command accepts.
const GLOBAL: &str = "Global options";

/// Runs and operates a pipeline whose stages are sandboxed WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Configuration file [default: config/postrider.toml, if it exists].
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL, env = "POSTRIDER_CONFIG")]
    config: Option<PathBuf>,
    /// Namespace of the host or of the configuration [default: the first one; `serve`, `doctor`,
    /// `migrate` and `config check` take all].
    #[arg(long, value_name = "NAME", global = true, help_heading = GLOBAL)]
    namespace: Option<String>,
    /// Format of log lines on standard error.
    #[arg(
        long,
        value_name = "FORMAT",
        global = true,
        help_heading = GLOBAL,
        env = "POSTRIDER_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    log_format: LogFormat,
    /// Print JSON instead of text.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a host: serve the API and run the stages.
    ///
    /// Stops gracefully on SIGINT and SIGTERM.
    Serve,
    /// Develop stages: rebuild and reload them on every save, and print each outcome.
    Dev(dev::DevArgs),
    /// Validate the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the pipeline: every stage, and the event types that it consumes and emits.
    Topology,
    /// Check the configuration, store, broker, plugins, clock and disk, and suggest fixes.
    ///
    /// Read-only; safe to run beside a running host. Exits with 1 if a check fails.
    Doctor,
    /// Create, test and inspect plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Submit, list, follow and cancel subjects: orders, documents, or whatever the host is configured
    /// with.
    #[command(subcommand)]
    Subjects(subjects::SubjectsCommand),
    /// Submit, list, follow and cancel orders: short for `subjects` of the kind `order`.
    #[command(subcommand)]
    Orders(subjects::OrdersCommand),
    /// Follow, export, import and send events.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// List, inspect, replay and discard dead letters.
    #[command(subcommand, visible_alias = "dead-letters")]
    Dlq(Box<dlq::DlqCommand>),
    /// List, export and verify what operators did.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// List, pause, drain and resume stages, and set their log level.
    #[command(subcommand)]
    Stages(stages::StagesCommand),
    /// Print the log lines of a subject, a trace, an event or a stage, from JSON log lines of hosts.
    ///
    /// Examples: docker compose logs --no-color --follow | postrider logs order 17, or postrider logs
    /// order/17 --file host.log --follow.
    Logs(logs::LogsArgs),
    /// List the live hosts that share a host's namespace, and what each runs.
    Hosts(hosts::HostsArgs),
    /// Print how much of each limit of a host is used, and by which clients.
    Limits(limits::LimitsArgs),
    /// List, rotate and remove the keys with which hosts sign their messages.
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    /// Show and rotate the keys that encrypt what is stored; erase a customer.
    #[command(subcommand)]
    Encryption(encryption::EncryptionCommand),
    /// Create, list, rotate and revoke API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Run recorded events through another version of a stage, and compare the decisions.
    ///
    /// Writes nothing to the store and sends nothing. Exits with 1 if a decision differs.
    Replay(replay::ReplayArgs),
    /// Migrate the schema of a Postgres store to this version, then exit.
    Migrate,
    /// Measure throughput and latency under load.
    Bench(bench::BenchArgs),
    /// Print the OpenAPI 3.1 document of the HTTP API.
    Openapi,
    /// Print a completion script for a shell.
    Completions {
        /// Shell to generate the script for.
        shell: clap_complete::Shell,
    },
    /// Compile the plugin file on standard input; a host starts this.
    #[command(name = compiler::COMMAND, hide = true)]
    CompilePlugin,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem and every environment variable that is ignored.
    ///
    /// With --json, print the problems, or the effective configuration if there are none.
    Check,
}

impl Cli {
    /// Whether a host started this program to compile a plugin file.
    pub(crate) fn is_compiler(&self) -> bool {
        matches!(self.command, Command::CompilePlugin)
    }
}

/// Runs a command line.
pub(crate) async fn run(cli: Cli) -> ExitCode {
    let default = match cli.command {
        // `dev` prints outcomes itself; of the log, only guest output and errors are of interest.
        Command::Dev(_) => "error,postrider::guest=info",
        // `doctor` reports problems as its findings.
        Command::Doctor => "off",
        // `topology` loads the plugins only to print the pipeline.
        Command::Topology => "warn",
        _ => telemetry::DEFAULT,
    };
    match &cli.command {
        Command::Bench(args) if args.costs => telemetry::init_with_costs(),
        _ => telemetry::init(cli.log_format, default),
    }
    // The future is as large as that of the largest command.
    match Box::pin(dispatch(cli)).await {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            errln!("postrider: {error:#}");
            let unreachable = error.is::<client::Unreachable>() || error.is::<client::NotAHost>();
            if unreachable { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let scope = Scope { config: cli.config, namespace: cli.namespace };
    let config = scope.config.as_deref();
    let output = if cli.json { Output::Json } else { Output::Text };
    client::note_scope(&scope);
    match cli.command {
        Command::Serve => host::serve(&scope).await,
        Command::Dev(args) => dev::run(args, &scope).await,
        Command::Config(ConfigCommand::Check) => host::check_config(&scope, output),
        Command::Topology => host::topology(&scope, output).await,
        Command::Doctor => doctor::run(&scope, output).await,
        Command::Plugin(command) => plugin::run(command, &scope, output).await,
        Command::Subjects(command) => subjects::run(command, output).await,
        Command::Orders(command) => subjects::run_orders(command, output).await,
        Command::Dlq(command) => dlq::run(*command, output).await,
        Command::Events(command) => events::run(command, output).await,
        Command::Audit(command) => audit::run(command, output).await,
        Command::Stages(command) => stages::run(command, output).await,
        Command::Encryption(command) => encryption::run(command, output).await,
        Command::Logs(args) => logs::run(args, output).await,
        Command::Hosts(args) => hosts::run(args, output).await,
        Command::Limits(args) => limits::run(args, output).await,
        Command::Broker(command) => broker::run(command, output).await,
        Command::Keys(command) => keys::run(command, &scope, output).await,
        Command::Replay(args) => replay::run(scope.one(Config::load(config)?)?, args, output).await,
        Command::Migrate => host::migrate(&scope).await,
        Command::Bench(args) => bench::run(&scope, args, output).await,
        Command::Openapi => {
            let kinds = scope.one(Config::declared(config)?)?.kinds()?;
            outln!("{:#}", postrider::internals::openapi_document(&kinds));
            Ok(ExitCode::SUCCESS)
        }
        // It runs without the threads of a command: `main`.
        Command::CompilePlugin => Ok(ExitCode::FAILURE),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "postrider", &mut script);
            out!("{}", String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_knows_every_variable_of_the_command_line() {
        fn variables(command: &clap::Command, found: &mut Vec<String>) {
            let names = command.get_arguments().filter_map(|one| one.get_env());
            found.extend(names.map(|name| name.to_string_lossy().into_owned()));
            for one in command.get_subcommands() {
                variables(one, found);
            }
        }
        let mut found = Vec::new();
        variables(&Cli::command(), &mut found);
        for name in found.iter().filter(|name| name.starts_with("POSTRIDER_")) {
            assert!(postrider::internals::OTHER_VARIABLES.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn dead_letters_is_an_alias_of_dlq() {
        let cli = Cli::try_parse_from(["postrider", "dead-letters", "groups"]).unwrap();
        assert!(matches!(cli.command, Command::Dlq(_)));
    }
}
