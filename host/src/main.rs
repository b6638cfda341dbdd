//! The `postrider` program: a thin user of the library.

use std::process::ExitCode;

use clap::Parser as _;
use postrider::cli::{self, Cli};

/// A host makes and drops many small values: this takes a sixth off what the system's allocator
/// costs it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
