//! The `postrider` program: a thin user of the library.

use std::process::ExitCode;

use clap::Parser as _;

mod command;
mod bench;
mod client;
mod dev;
mod dlq;
mod doctor;
mod events;
mod follow;
mod grants;
mod host;
mod orders;
mod plugin;
mod progress;
mod replay;
mod stages;
mod table;
mod telemetry;

/// A host makes and drops many small values: this takes a sixth off what the system's allocator
/// costs it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    command::run(command::Cli::parse()).await
}
