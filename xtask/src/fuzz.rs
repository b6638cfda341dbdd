//! Fuzzing with coverage: runs `cargo fuzz` on the workspace's stable compiler, then minimises the
//! corpus.
//!
//! Bounds: the requested time per target; size, memory and time of one input by the constants
//! below.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{call, cargo, runs, say};

/// A fuzz target of `host/src/internals/fuzz.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Plugin files.
    Loader,
    /// Descriptions, events and answers of stages.
    Contract,
    /// AMQP messages of other programs.
    Message,
}

impl Target {
    const ALL: [Self; 3] = [Self::Loader, Self::Contract, Self::Message];

    fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::Contract => "contract",
            Self::Message => "message",
        }
    }
}

/// What to fuzz, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// One target, or every one in turn.
    target: Option<Target>,
    /// For each target.
    seconds: u32,
}

impl Options {
    /// Parses `[TARGET] [--seconds N]`.
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self { target: None, seconds: 60 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if *arg == "--seconds" {
                let seconds = args.next().context("--seconds needs a number")?;
                options.seconds =
                    seconds.parse().with_context(|| format!("--seconds {seconds}"))?;
            } else if let Some(target) = Target::ALL.into_iter().find(|all| all.name() == *arg) {
                options.target = Some(target);
            } else {
                bail!("unknown fuzz target or option: {arg}");
            }
        }
        Ok(options)
    }
}

/// Longer inputs are slow and rarely reach more.
const INPUT_MAX_BYTES: u32 = 4_096;
const MEMORY_MAX_MB: u32 = 4_096;
const INPUT_MAX_SECONDS: u32 = 120;

/// Runs one target or all of them and minimises their corpora.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    if !runs(cargo().args(["fuzz", "--version"])) {
        say("installing cargo-fuzz");
        call(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    say("building the targets (slow the first time: every crate is compiled with coverage)");
    call(cargo_fuzz("build").args(PLACES))?;
    let databases = Databases::new()?;
    let targets = options.target.as_ref().map_or(&Target::ALL[..], std::slice::from_ref);
    targets.iter().try_for_each(|target| run(*target, options.seconds, &databases))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_default_to_every_target_for_a_minute() {
        let default = Options { target: None, seconds: 60 };
        assert_eq!(Options::parse(&[]).unwrap(), default);
        let long = Options { target: Some(Target::Contract), seconds: 600 };
        assert_eq!(Options::parse(&["contract", "--seconds", "600"]).unwrap(), long);
    }

    #[test]
    fn unknown_options_are_refused() {
        for args in [&["parser"][..], &["--seconds"], &["--seconds", "soon"]] {
            assert!(Options::parse(args).is_err(), "{args:?}");
        }
    }
}
