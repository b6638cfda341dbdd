//! The `postrider` program: a thin user of the `postrider` library.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

#[macro_use]
mod output;

mod command;

mod host;
mod dev;
mod doctor;
mod plugin;
mod events;
mod dlq;
mod stages;
mod keys;
mod subjects;
mod replay;
mod bench;
mod broker;
mod encryption;
mod hosts;
mod limits;
mod logs;

mod allocations;
mod audit;
mod client;
mod compiler;
mod drawing;
mod follow;
mod offline_host;
mod progress;
mod scope;
mod table;
mod telemetry;
mod traces;
mod value_parsers;

/// Time for blocking calls when the program ends; one on a file system that hangs may never return.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = command::Cli::parse();
    if cli.is_compiler() {
        return postrider::CompilerProgram::run();
    }
    // For the HTTP client of the commands.
    postrider::internals::install_default_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("postrider: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command::run(cli));
    runtime.shutdown_timeout(LINGER);
    code
}
