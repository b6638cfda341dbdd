//! Developer tasks of this repository: `cargo xtask help` lists them.
//!
//! It depends on `anyhow` alone and compiles in seconds, because every first build waits for it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

mod console;
mod crates;
mod fuzz;
mod guests;
#[cfg(test)]
mod lock;
mod services;
mod symbols;
mod tools;

const HELP: &str = "\
Builds, runs and tests Postrider.

Usage: cargo xtask <TASK>

Tasks:
  plugins     Build the stages to plugins/ and the test guests to target/fixtures/
  build       Build the stages and the host (release); the program's symbols go to a file beside it
  run [ARGS]  Build, then run `postrider ARGS`; default: serve, with the embedded store and queue
  example documents [ARGS]
              Build the documents example (plugins/examples/documents), and run `postrider ARGS` with
              its configuration; default: serve
  test        Run all tests: the stages' own, unit tests, integration tests, measured tests;
              finds or starts Postgres and RabbitMQ
  fuzz [loader|contract|message] [--seconds N]
              Fuzz untrusted input with coverage and minimise the corpus (docs/fuzzing.md);
              default: every target, 60 seconds each
  advisories  Check the dependencies for known vulnerabilities; fails if their database cannot be
              fetched
  embedding   Package the library, and run a program outside of the workspace that embeds it
  console     Build the web console with Node.js into host/console/dist, which is committed
  ci          Run everything CI runs: the console, formatting, lints, documentation, dependencies,
              features, tests, packages
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["plugins"] => guests::build_all(),
        ["build"] => build().map(drop),
        ["run", "--", args @ ..] | ["run", args @ ..] => run(args),
        ["example", "documents", args @ ..] => example(args),
        ["test"] => test(),
        ["fuzz", args @ ..] => fuzz::fuzz(&fuzz::Options::parse(args)?),
        ["advisories"] => advisories(),
        ["embedding"] => embedding(),
        ["console"] => console::build(),
        ["ci"] => ci(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown task: {}\n\n{HELP}", args.join(" ")),
    }
}

/// Builds the stages and the host side by side; returns the program's path.
fn build() -> Result<PathBuf> {
    say("building the stages and the host (several minutes the first time)");
    std::thread::scope(|scope| {
        // The two builds have their own target folders, so neither waits for the other's lock.
        let stages = scope.spawn(guests::build_stages);
        let host = call(cargo().args(["build", "--release", "--package", "postrider-cli"]));
        let stages = stages.join().expect("the stages' build does not panic");
        host.and(stages)
    })?;
    let program = root().join("target/release/postrider");
    symbols::split(&program)?;
    Ok(program)
}

fn run(args: &[&str]) -> Result<()> {
    let program = build()?;
    let args = if args.is_empty() { &["serve"] } else { args };
    call(Command::new(program).args(args).current_dir(root()))
}

/// Runs the documents example: a pipeline without orders, with stages in Rust and Python.
fn example(args: &[&str]) -> Result<()> {
    let program = build()?;
    guests::build_documents(&program)?;
    let args = if args.is_empty() { &["serve"] } else { args };
    let config = ["--config", "plugins/examples/documents/postrider.toml"];
    call(Command::new(program).args(config).args(args).current_dir(root()))
}

fn test() -> Result<()> {
    guests::build_all()?;
    guests::test_all()?;
    say("building and running the host's tests (several minutes the first time)");
    // The crash tests start the program. Every command builds the whole workspace: a part of it
    // would compile its dependencies again, with other features.
    call(cargo().args(["build", "--workspace", "--all-targets"]))?;
    tools::find()?;
    let services = services::Services::find()?;
    let environment = || services.environment.iter().cloned();
    say("running the tests");
    // Most of them wait for a server or a clock, so the machine runs more of them than it has cores.
    let threads = 2 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let threads = ["test", "--workspace", "--", "--test-threads", &threads.to_string()];
    call(cargo().args(threads).envs(environment()))?;
    say(
        "running one at a time: the console, and measured tests of faults, hostile guests, languages",
    );
    let measured = ["test", "--workspace", "--test", "integration"];
    // How much one namespace delays another depends on what else the machine does: docs/testing.md.
    let alone = ["--", "--ignored", "--test-threads", "1", "--skip", "a_flood_of"];
    call(cargo().args(measured).args(alone).envs(environment()))
}

fn ci() -> Result<()> {
    say("checking the format");
    call(cargo().args(["fmt", "--all", "--check"]))?;
    call(cargo().args(["fmt", "--all", "--check", "--manifest-path", "plugins/Cargo.toml"]))?;
    say("checking the lints");
    call(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    say("building the documentation");
    call(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    console::check()?;
    deny()?;
    known_advisories()?;
    crates::minimal()?;
    crates::features()?;
    test()?;
    embedding()?;
    say("everything holds");
    Ok(())
}

fn embedding() -> Result<()> {
    crates::package()?;
    let services = services::Services::find()?;
    crates::embedding(services.environment.iter().cloned())
}

/// The lock files of what is released.
const LOCKED: [&str; 2] = ["Cargo.toml", "plugins/Cargo.toml"];

/// Checks licenses, sources and bans of the dependencies: deny.toml.
fn deny() -> Result<()> {
    install_deny()?;
    say("checking the dependencies");
    call(cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}

/// Checks for known vulnerabilities, if the network allows it.
fn known_advisories() -> Result<()> {
    match fetch_advisories() {
        Ok(()) => check_advisories(),
        Err(error) => {
            say(&format!("NOT CHECKED: known vulnerabilities of the dependencies. {error:#}"));
            Ok(())
        }
    }
}

fn advisories() -> Result<()> {
    fetch_advisories()?;
    check_advisories()
}

fn fetch_advisories() -> Result<()> {
    install_deny()?;
    say("fetching the database of known vulnerabilities");
    let fetched = cargo().args(["deny", "fetch", "db"]).output()?;
    let said = String::from_utf8_lossy(&fetched.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    ensure!(
        fetched.status.success(),
        "The database (https://github.com/rustsec/advisory-db) cannot be fetched: {last}; run `cargo xtask advisories` where it can"
    );
    Ok(())
}

fn check_advisories() -> Result<()> {
    say("checking the dependencies for known vulnerabilities");
    for manifest in LOCKED {
        let mut check = cargo();
        check.args(["deny", "--manifest-path"]).arg(root().join(manifest));
        check.args(["check", "--disable-fetch", "--config"]).arg(root().join("deny.toml"));
        call(check.arg("advisories"))?;
    }
    Ok(())
}

fn install_deny() -> Result<()> {
    if runs(cargo().args(["deny", "--version"])) {
        return Ok(());
    }
    say("installing cargo-deny");
    // It runs for a second, so optimising it costs more time than it saves.
    call(
        cargo()
            .args(["install", "cargo-deny", "--locked", "--debug"])
            .env("CARGO_PROFILE_DEV_DEBUG", "false"),
    )
}

/// Prints one progress line, with the minutes and seconds since the task began.
pub(crate) fn say(what: &str) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let elapsed = BEGAN.elapsed().as_secs();
    eprintln!("xtask [{:02}:{:02}]: {what}", elapsed / 60, elapsed % 60);
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// The cargo that runs this task, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
    command.current_dir(root());
    command
}

/// Runs a command; an error names the command.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Whether a command runs and succeeds; its output is dropped.
pub(crate) fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
