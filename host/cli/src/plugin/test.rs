//! `postrider plugin test`: runs a stage's fixtures and compares the outcomes with the recorded ones.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use similar::TextDiff;

use super::case::Case;
use super::dry_run::{DryRun, RunAs};
use super::project::Project;
use crate::client::read_json;
use crate::output::Output;
use postrider::Config;

mod junit;

/// Time of the stage's clock unless the fixture sets one: 2023-11-14 22:13:20 UTC.
const NOW_MS: u64 = 1_700_000_000_000;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Project folder, with `stage.toml` and `fixtures/`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Record the current outcomes as expected.
    #[arg(long)]
    accept: bool,
    /// Build the plugin first, even if it is newer than its sources.
    #[arg(long)]
    build: bool,
    /// Run only fixtures whose name contains this text; repeat the option for several.
    #[arg(long = "case", value_name = "NAME")]
    names: Vec<String>,
    /// Stage of the configuration (--config) to run the plugin as.
    #[arg(long)]
    stage: Option<String>,
    /// Also write the results to a file, in the XML format of `JUnit`.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// A fixture that was run.
struct CaseRun {
    file: PathBuf,
    result: CaseResult,
    took: Duration,
}

pub(super) async fn run(args: TestArgs, config: Config, output: Output) -> Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    if args.build {
        project.rebuild().await?;
    } else {
        project.build_if_stale().await?;
    }
    let run_as = RunAs { stage: args.stage.as_deref(), ..RunAs::default() };
    let plugin = DryRun::load(&project.artifact, config, run_as).await?;
    let folder = args.dir.join("fixtures");
    let wanted = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        args.names.is_empty() || args.names.iter().any(|wanted| name.contains(wanted))
    };
    let cases: Vec<PathBuf> = cases(&folder)?.into_iter().filter(&wanted).collect();
    ensure!(!cases.is_empty(), "no fixture's name contains {}", args.names.join(" or "));
    let mut runs = Vec::new();
    for file in cases {
        let began = Instant::now();
        let result = run_case(&plugin, &file, args.accept).await;
        runs.push(CaseRun { file, result, took: began.elapsed() });
    }
    for file in orphans(&folder)?.into_iter().filter(&wanted) {
        runs.push(CaseRun { file, result: CaseResult::Orphaned, took: Duration::ZERO });
    }
    if let Some(file) = &args.junit {
        let report = junit::report(&project.name(), &runs);
        std::fs::write(file, report).with_context(|| file.display().to_string())?;
    }
    report(&runs, &project.artifact, output)
}

fn report(runs: &[CaseRun], artifact: &Path, output: Output) -> Result<ExitCode> {
    let failed = runs.iter().filter(|run| run.result.is_failure()).count();
    if output == Output::Text {
        for run in runs {
            run.result.print(&run.file);
        }
    }
    let case = |run: &CaseRun| {
        json!({
            "case": run.file.display().to_string(),
            "result": run.result.name(),
            "difference": run.result.difference(),
            "reason": run.result.reason(),
        })
    };
    let cases: Vec<Value> = runs.iter().map(case).collect();
    let report = json!({ "ok": failed == 0, "artifact": artifact, "cases": cases });
    output.print(&report, |_| {
        outln!("{} fixtures, {failed} failed; plugin: {}", runs.len(), artifact.display());
    })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one fixture. What is wrong with it does not stop the others.
async fn run_case(plugin: &DryRun, file: &Path, record: bool) -> CaseResult {
    let run = async {
        let case = Case::parse(read_json(&file.to_string_lossy())?)?;
        let ran = plugin.run(&case, NOW_MS, 1).await?;
        if let Some((code, message)) = ran.refused {
            return Ok(CaseResult::Refused(format!("{code}: {message}")));
        }
        let actual = format!("{:#}\n", ran.decision());
        let expected = file.with_extension("expected.json");
        if record { accept(&actual, &expected) } else { Ok(compare(&actual, &expected)) }
    };
    run.await.unwrap_or_else(|error: anyhow::Error| CaseResult::Invalid(format!("{error:#}")))
}

enum CaseResult {
    Passed,
    /// The outcome was recorded as expected.
    Recorded,
    /// No outcome is recorded yet.
    Unrecorded,
    /// The outcome differs; the value is a unified diff.
    Different(String),
    /// A host would not accept the outcome: why.
    Refused(String),
    /// The fixture cannot be run: why.
    Invalid(String),
    /// An expected outcome without a fixture.
    Orphaned,
}

fn compare(actual: &str, expected_file: &Path) -> CaseResult {
    let Ok(expected) = std::fs::read_to_string(expected_file) else {
        return CaseResult::Unrecorded;
    };
    if same_json(&expected, actual) {
        return CaseResult::Passed;
    }
    let diff = TextDiff::from_lines(&expected, actual);
    CaseResult::Different(diff.unified_diff().header("expected", "actual").to_string())
}

fn accept(actual: &str, expected_file: &Path) -> Result<CaseResult> {
    if let CaseResult::Passed = compare(actual, expected_file) {
        return Ok(CaseResult::Passed);
    }
    std::fs::write(expected_file, actual).with_context(|| expected_file.display().to_string())?;
    Ok(CaseResult::Recorded)
}

/// Compares values, because a person may have formatted the expected outcome differently.
fn same_json(expected: &str, actual: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    parse(expected).is_some_and(|expected| Some(expected) == parse(actual))
}

impl CaseResult {
    fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Recorded => "recorded",
            Self::Unrecorded => "unrecorded",
            Self::Different(_) => "different",
            Self::Refused(_) => "refused",
            Self::Invalid(_) => "invalid",
            Self::Orphaned => "orphaned",
        }
    }

    fn is_failure(&self) -> bool {
        !matches!(self, Self::Passed | Self::Recorded)
    }

    fn difference(&self) -> Option<&str> {
        if let Self::Different(difference) = self { Some(difference) } else { None }
    }

    /// Why it failed, unless the difference says it.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed | Self::Recorded | Self::Different(_) => None,
            Self::Unrecorded => Some(
                "no expected outcome: review it with `plugin run`, then record it with --accept",
            ),
            Self::Refused(reason) | Self::Invalid(reason) => Some(reason),
            Self::Orphaned => Some("no fixture has this expected outcome: delete the file"),
        }
    }

    fn print(&self, case: &Path) {
        outln!("{:<10} {}", self.name(), case.display());
        if let Some(difference) = self.difference() {
            outln!("{difference}");
        }
        for line in self.reason().unwrap_or_default().lines() {
            outln!("           {line}");
        }
    }
}

/// Whether a file is an expected outcome.
fn is_expected(path: &Path) -> bool {
    let stem = path.file_stem().map(Path::new);
    stem.and_then(Path::extension).is_some_and(|end| end == "expected")
}

fn json_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read the fixtures in {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            files.push(path);
        }
    }
    files.sort();
    if let Some(odd) = files.iter().find(|file| file.to_str().is_none()) {
        bail!("{}: the file name is not UTF-8", odd.display());
    }
    Ok(files)
}

/// Expected outcomes whose fixture is gone.
fn orphans(dir: &Path) -> Result<Vec<PathBuf>> {
    let fixture = |expected: &Path| expected.with_extension("").with_extension("json");
    let files = json_files(dir)?.into_iter();
    Ok(files.filter(|file| is_expected(file) && !fixture(file).is_file()).collect())
}

/// The fixtures in a folder, by name: every `*.json` that is not an expected outcome.
pub(crate) fn cases(dir: &Path) -> Result<Vec<PathBuf>> {
    let cases: Vec<PathBuf> =
        json_files(dir)?.into_iter().filter(|file| !is_expected(file)).collect();
    ensure!(
        !cases.is_empty(),
        "{} has no fixtures: a fixture is a file `<case>.json` with \
         {{\"event\", \"state\"?, \"config\"?}}",
        dir.display()
    );
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_outcomes_without_a_fixture_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.json", "a.expected.json", "b.expected.json", "c.json", "d.txt"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            let names = files.iter().filter_map(|file| file.file_name());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(cases(folder.path()).unwrap()), ["a.json", "c.json"]);
        assert_eq!(names(orphans(folder.path()).unwrap()), ["b.expected.json"]);
    }
}
