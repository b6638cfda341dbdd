//! The `postrider` program: a thin user of the library.

use std::process::ExitCode;

use clap::Parser as _;
use postrider::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
