//! Fuzzing with coverage: `cargo fuzz` on the workspace's own, stable compiler, then the smallest
//! corpus that reaches as much.
//!
//! Bounds: the time asked for, for each target; inputs, memory and time of one run as [`Target`]
//! says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{call, cargo, runs, say};

/// What is fuzzed; `host/src/fuzz.rs` says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Plugin files.
    Loader,
    /// Descriptions, events and answers of stages.
    Contract,
    /// Messages of other programs.
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

/// An input is no longer than this: long ones are slow, and few of them are kept.
const INPUT_MAX_BYTES: u32 = 4_096;
/// Memory of a run.
const MEMORY_MAX_MB: u32 = 4_096;
/// Longest time that one input may take.
const INPUT_MAX_SECONDS: u32 = 120;

/// Runs one target or all, each for so long, and minimises what is kept.
pub(crate) fn fuzz(target: Option<Target>, seconds: u32) -> Result<()> {
    if !runs(cargo().args(["fuzz", "--version"])) {
        say("installing cargo-fuzz");
        call(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    say(
        "building the targets (the first time takes a good while: everything is compiled with coverage)",
    );
    call(cargo_fuzz("build").args(PLACES))?;
    let databases = Databases::new()?;
    target.as_ref().map_or(Target::value_variants(), std::slice::from_ref).iter().try_for_each(|target| {
        let name = target.name();
        say(&format!("{name}: {seconds} s"));
        let time = format!("-max_total_time={seconds}");
        // Structured inputs gain nothing from beginning short.
        let how = ["--", time.as_str(), "-len_control=0", "-print_final_stats=1"];
        let run = call(cargo_fuzz("run").args(PLACES).arg(name).args(how).args(limits()).env("TMPDIR", &databases.0));
        run.with_context(|| format!("move what was found from host/fuzz/artifacts/{name} to host/fuzz/found/{name}, and mend it"))?;
        say(&format!("{name}: minimising host/fuzz/corpus/{name}"));
        let how = ["--", "-set_cover_merge=1"];
        call(cargo_fuzz("cmin").args(PLACES).arg(name).args(how).args(limits()).env("TMPDIR", &databases.0))
    })
}

/// Where the targets are, and where they are built. No sanitizer: the stable compiler has none.
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

/// Where the targets write their databases: in memory where there is such a folder, so that no disk
/// slows them down. libFuzzer ends without tidying up: all of it goes with this.
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
