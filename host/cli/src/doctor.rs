//! `postrider doctor`: what is wrong with a set-up, and how to mend it. Exit code 1 when something
//! does not work.

pub(crate) mod checks;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use console::style;

use crate::doctor::checks::{Finding, Level, examine};
use postrider::config::Config;

pub(crate) async fn run(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let findings = examine(Config::load(config)).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(show);
        println!("{}", verdict(&findings));
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(finding: &Finding) {
    let level = match finding.level {
        Level::Ok => style("ok     ").green(),
        Level::Warning => style("warning").yellow(),
        Level::Problem => style("problem").red().bold(),
    };
    println!("{level} {}: {}", style(&finding.check).bold(), finding.found);
    if let Some(remedy) = &finding.remedy {
        println!("        {}", style(remedy).cyan());
    }
}

fn verdict(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Problem), count(Level::Warning)) {
        (0, 0) => "nothing is wrong".to_owned(),
        (problems, warnings) => format!("{problems} problem(s), {warnings} warning(s)"),
    }
}
