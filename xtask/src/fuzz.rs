//! Fuzzing with coverage: runs `cargo fuzz` on the workspace's stable compiler, then minimises the
//! corpus.
//!
//! Bounds: the requested time per target; size, memory and time of one input by the constants
//! below.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{call, cargo, runs, say};

/// A fuzz target of `host/src/fuzz.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Plugin files.
    Loader,
    /// Descriptions, events and answers of stages.
    Contract,
    /// AMQP messages of other programs.
    Message,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::Contract => "contract",
            Self::Message => "message",
        }
    }
}

/// Longer inputs are slow and rarely reach more.
const INPUT_MAX_BYTES: u32 = 4_096;
const MEMORY_MAX_MB: u32 = 4_096;
const INPUT_MAX_SECONDS: u32 = 120;

/// Runs one target or all of them, each for `seconds`, and minimises its corpus.
pub(crate) fn fuzz(target: Option<Target>, seconds: u32) -> Result<()> {
    if !runs(cargo().args(["fuzz", "--version"])) {
        say("installing cargo-fuzz");
        call(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    say("building the targets (slow the first time: every crate is compiled with coverage)");
    call(cargo_fuzz("build").args(PLACES))?;
    let databases = Databases::new()?;
    let targets = target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
    targets.iter().try_for_each(|target| run(*target, seconds, &databases))
}

fn run(target: Target, seconds: u32, databases: &Databases) -> Result<()> {
    let name = target.name();
    say(&format!("{name}: {seconds} s"));
    // libFuzzer adds to the first folder and only reads the others.
    let corpus = format!("host/fuzz/corpus/{name}");
    std::fs::create_dir_all(&corpus)?;
    let regressions = format!("host/fuzz/regressions/{name}");
    let seeds = Path::new(&regressions).is_dir().then_some(regressions.as_str());
    let time = format!("-max_total_time={seconds}");
    // Structured inputs gain nothing from beginning short.
    let options = ["--", time.as_str(), "-len_control=0", "-print_final_stats=1"];
    let mut fuzz = cargo_fuzz("run");
    fuzz.args(PLACES).arg(name).arg(&corpus).args(seeds).args(options).args(limits());
    call(fuzz.env("TMPDIR", &databases.0)).with_context(|| {
        format!(
            "move the input from host/fuzz/artifacts/{name} to host/fuzz/regressions/{name} and \
             fix the fault"
        )
    })?;
    say(&format!("{name}: minimising {corpus}"));
    let mut minimise = cargo_fuzz("cmin");
    minimise.args(PLACES).arg(name).args(["--", "-set_cover_merge=1"]).args(limits());
    call(minimise.env("TMPDIR", &databases.0))
}

/// Source and build folders of the targets. No sanitizer: the stable compiler has none.
const PLACES: [&str; 6] =
    ["--sanitizer", "none", "--fuzz-dir", "host/fuzz", "--target-dir", "target/fuzz"];

fn limits() -> [String; 3] {
    [
        format!("-max_len={INPUT_MAX_BYTES}"),
        format!("-rss_limit_mb={MEMORY_MAX_MB}"),
        format!("-timeout={INPUT_MAX_SECONDS}"),
    ]
}

fn cargo_fuzz(command: &str) -> Command {
    let mut fuzz = cargo();
    fuzz.args(["fuzz", command]);
    fuzz
}

/// The folder for the targets' databases: in memory where possible, so that the disk does not slow
/// them down. libFuzzer exits without cleaning up, so dropping this removes the folder.
struct Databases(PathBuf);

impl Databases {
    fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = base.join(format!("postrider-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
