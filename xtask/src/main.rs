//! Everything a developer does with this repository: `cargo xtask plugins | run | test | fuzz |
//! ci`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

mod fuzz;
mod guests;
mod services;

#[derive(Parser)]
#[command(about = "Builds, runs and tests Postrider")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build every stage to `plugins`, and the test guests.
    Plugins,
    /// Build stages and host (release) and serve with the embedded store and queue.
    Run {
        /// Passed to `postrider`; default: `serve`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// All tests: the stages' own, unit tests, integration tests; finds or starts Postgres and
    /// RabbitMQ.
    Test,
    /// Fuzz untrusted input with coverage, and minimise the corpus: docs/fuzzing.md.
    Fuzz {
        /// Default: all, one after another.
        target: Option<fuzz::Target>,
        /// For each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// What CI does: formatting, lints, documentation, dependencies, all tests.
    Ci,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Plugins => guests::build_all(),
        Task::Run { args } => run(&args),
        Task::Test => test(),
        Task::Fuzz { target, seconds } => fuzz::fuzz(target, seconds),
        Task::Ci => ci(),
    }
}

fn run(args: &[String]) -> Result<()> {
    guests::build_all()?;
    say("building the host (the first time takes several minutes)");
    call(cargo().args(["build", "--release", "--package", "postrider-cli"]))?;
    let args = if args.is_empty() { &["serve".to_owned()] } else { args };
    call(Command::new(root().join("target/release/postrider")).args(args).current_dir(root()))
}

fn test() -> Result<()> {
    guests::build_all()?;
    guests::test_all()?;
    say("building and running the host's tests (the first time takes several minutes)");
    // The crash tests start the program. Of everything at once, since a part of it would want its
    // dependencies with other features.
    call(cargo().args(["build", "--workspace", "--all-targets"]))?;
    let services = services::Services::find()?;
    let environment = || services.environment.iter().cloned();
    call(cargo().args(["test", "--workspace"]).envs(environment()))?;
    say(
        "tests that measure time, one after another: what hostile guests cost the healthy ones, what faults cost everybody",
    );
    let alone = ["test", "--package", "postrider-tests", "--", "--ignored", "--test-threads", "1"];
    call(cargo().args(alone).envs(environment()))
}

fn ci() -> Result<()> {
    call(cargo().args(["fmt", "--all", "--check"]))?;
    call(cargo().args(["fmt", "--all", "--check", "--manifest-path", "plugins/Cargo.toml"]))?;
    call(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    call(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    if !runs(cargo().args(["deny", "--version"])) {
        say("installing cargo-deny");
        // It runs for a second: what optimising it would cost is never earned back.
        call(cargo().args(["install", "cargo-deny", "--locked", "--debug"]))?;
    }
    // Advisories are a download: they are checked where the network allows it, not here.
    call(cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
    test()
}

/// One line that says what is going on.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// The cargo that runs this, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
    command.current_dir(root());
    command
}

/// Runs a command; its failure is an error that names it.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Whether a command runs and succeeds; what it prints is dropped.
pub(crate) fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
