//! `postrider doctor`: checks an installation and suggests fixes. Exit code 1 if a check fails.

pub(crate) mod checks;

use std::process::ExitCode;

use anyhow::Result;
use console::style;

use crate::doctor::checks::{Finding, Level, examine, invalid};
use crate::output::Output;
use crate::scope::Scope;
use postrider::Config;

pub(crate) async fn run(scope: &Scope, output: Output) -> Result<ExitCode> {
    let findings = match Config::load(scope.config.as_deref()) {
        Ok(config) => examine(scope.any(config)?).await,
        Err(error) => invalid(error),
    };
    output.print(&findings, |findings| {
        findings.iter().for_each(show);
        outln!("{}", summary(findings));
    })?;
    let failed = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(finding: &Finding) {
    let level = match finding.level {
        Level::Ok => style("ok     ").green(),
        Level::Warning => style("warning").yellow(),
        Level::Problem => style("problem").red().bold(),
    };
    outln!("{level} {}: {}", style(&finding.check).bold(), finding.found);
    if let Some(remedy) = &finding.remedy {
        outln!("        {}", style(remedy).cyan());
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Problem), count(Level::Warning)) {
        (0, 0) => "all checks passed".to_owned(),
        (problems, warnings) => {
            format!("{}, {}", plural(problems, "problem"), plural(warnings, "warning"))
        }
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
