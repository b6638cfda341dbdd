//! `postrider plugin test`: a stage's fixtures against what was recorded of them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use similar::TextDiff;

use super::dry_run::{Case, Trial};
use super::project::Project;
use crate::client::read_json;
use postrider::runtime::InstancePolicy;

/// What a stage's clock shows in a test, unless the case says otherwise: 2023-11-14 22:13:20 UTC.
const NOW_MS: u64 = 1_700_000_000_000;

/// The fixtures of a stage.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The stage's folder, with `stage.toml` and `fixtures/`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Take what comes out now for right, and record it.
    #[arg(long)]
    accept: bool,
    /// Build first, also when there is a plugin file already.
    #[arg(long)]
    build: bool,
}

pub(super) async fn run(args: TestArgs, json: bool) -> Result<ExitCode> {
    let project = Project::open(&args.dir)?;
    project.ensure_built(args.build).await?;
    let trial = Trial::load(&project.artifact, InstancePolicy::Fresh).await?;
    let cases = cases(&args.dir.join("fixtures"))?;
    let (mut results, mut failed) = (Vec::new(), 0);
    for case in &cases {
        let parsed = Case::parse(read_json(&case.to_string_lossy())?)
            .with_context(|| case.display().to_string())?;
        let came = format!("{:#}\n", trial.run(&parsed, NOW_MS, 1).await.decision());
        let record = case.with_extension("expected.json");
        let result = judge(&came, &record, args.accept)?;
        failed += usize::from(!matches!(result, Judged::Right | Judged::Recorded));
        if !json {
            result.show(case);
        }
        results.push(json!({ "case": case.display().to_string(), "result": result.name(), "difference": result.difference() }));
    }
    if json {
        println!(
            "{:#}",
            json!({ "ok": failed == 0, "artifact": project.artifact, "cases": results })
        );
    } else {
        println!(
            "{} cases, {failed} not as recorded; the plugin is {}",
            cases.len(),
            project.artifact.display()
        );
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of a case.
enum Judged {
    Right,
    Recorded,
    Unrecorded,
    Different(String),
}

fn judge(came: &str, record: &Path, accept: bool) -> Result<Judged> {
    let expected = std::fs::read_to_string(record).ok();
    if expected.as_deref().is_some_and(|expected| same(expected, came)) {
        return Ok(Judged::Right);
    }
    if accept {
        std::fs::write(record, came).with_context(|| record.display().to_string())?;
        return Ok(Judged::Recorded);
    }
    Ok(expected.map_or(Judged::Unrecorded, |expected| {
        Judged::Different(
            TextDiff::from_lines(&expected, came)
                .unified_diff()
                .header("recorded", "now")
                .to_string(),
        )
    }))
}

/// Whoever wrote the record may have laid it out otherwise.
fn same(expected: &str, came: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    parse(expected).is_some_and(|expected| Some(expected) == parse(came))
}

impl Judged {
    fn name(&self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Recorded => "recorded",
            Self::Unrecorded => "unrecorded",
            Self::Different(_) => "different",
        }
    }

    fn difference(&self) -> Option<&str> {
        if let Self::Different(difference) = self { Some(difference) } else { None }
    }

    fn show(&self, case: &Path) {
        println!("{:<10} {}", self.name(), case.display());
        match self {
            Self::Different(difference) => println!("{difference}"),
            Self::Unrecorded => println!(
                "           nothing is recorded of it: look at `plugin run`, then record it with --accept"
            ),
            Self::Right | Self::Recorded => {}
        }
    }
}

/// Every `*.json` that is not a record, by name.
pub(crate) fn cases(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("{}: no fixtures", dir.display()))?;
    let mut cases = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_record = path
            .file_stem()
            .is_some_and(|stem| Path::new(stem).extension().is_some_and(|end| end == "expected"));
        if path.extension().is_some_and(|end| end == "json") && !is_record {
            cases.push(path);
        }
    }
    cases.sort();
    ensure!(
        !cases.is_empty(),
        "{} holds no fixture: a case is {{\"event\", \"state\"?, \"config\"?}} in a file `<case>.json`",
        dir.display()
    );
    if let Some(odd) = cases.iter().find(|case| case.to_str().is_none()) {
        bail!("{}: the name is not UTF-8", odd.display());
    }
    Ok(cases)
}
