//! `postrider plugin test`: runs a stage's fixtures and compares the outcomes with the recorded ones.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use similar::TextDiff;

use super::dry_run::{Case, DryRun};
use super::project::Project;
use crate::client::read_json;
use crate::output::Output;
use postrider::internals::InstancePolicy;

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
    /// Build the plugin first, even if its file exists.
    #[arg(long)]
    build: bool,
}

pub(super) async fn run(args: TestArgs, output: Output) -> Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    if args.build {
        project.rebuild().await?;
    } else {
        project.build_if_missing().await?;
    }
    let plugin = DryRun::load(&project.artifact, InstancePolicy::Fresh).await?;
    let cases = cases(&args.dir.join("fixtures"))?;
    let (mut results, mut failed) = (Vec::new(), 0);
    for case in &cases {
        let parsed = Case::parse(read_json(&case.to_string_lossy())?)
            .with_context(|| case.display().to_string())?;
        let actual = format!("{:#}\n", plugin.run(&parsed, NOW_MS, 1).await.decision());
        let expected = case.with_extension("expected.json");
        let result =
            if args.accept { accept(&actual, &expected)? } else { compare(&actual, &expected) };
        failed += usize::from(!matches!(result, CaseResult::Passed | CaseResult::Recorded));
        if output == Output::Text {
            result.print(case);
        }
        results.push(json!({
            "case": case.display().to_string(),
            "result": result.name(),
            "difference": result.difference(),
        }));
    }
    let artifact = &project.artifact;
    let report = json!({ "ok": failed == 0, "artifact": artifact, "cases": results });
    output.print(&report, |_| {
        println!("{} fixtures, {failed} failed; plugin: {}", cases.len(), artifact.display());
    })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum CaseResult {
    Passed,
    /// The outcome was recorded as expected.
    Recorded,
    /// No outcome is recorded yet.
    Unrecorded,
    /// The outcome differs; the value is a unified diff.
    Different(String),
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
        }
    }

    fn difference(&self) -> Option<&str> {
        if let Self::Different(difference) = self { Some(difference) } else { None }
    }

    fn print(&self, case: &Path) {
        println!("{:<10} {}", self.name(), case.display());
        match self {
            Self::Different(difference) => println!("{difference}"),
            Self::Unrecorded => println!(
                "           no expected outcome: review it with `plugin run`, \
                 then record it with --accept"
            ),
            Self::Passed | Self::Recorded => {}
        }
    }
}

/// The fixtures in a folder, by name: every `*.json` that is not an expected outcome.
pub(crate) fn cases(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read the fixtures in {}", dir.display()))?;
    let mut cases = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_expected = path
            .file_stem()
            .is_some_and(|stem| Path::new(stem).extension().is_some_and(|end| end == "expected"));
        if path.extension().is_some_and(|end| end == "json") && !is_expected {
            cases.push(path);
        }
    }
    cases.sort();
    ensure!(
        !cases.is_empty(),
        "{} has no fixtures: a fixture is a file `<case>.json` with \
         {{\"event\", \"state\"?, \"config\"?}}",
        dir.display()
    );
    if let Some(odd) = cases.iter().find(|case| case.to_str().is_none()) {
        bail!("{}: the file name is not UTF-8", odd.display());
    }
    Ok(cases)
}
