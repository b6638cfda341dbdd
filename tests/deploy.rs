//! What is under `deploy/`, and Docker Compose: the alerts fire when they should, each has a runbook, and
//! every metric of an alert or a dashboard exists.

mod alerts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::harness::root;
use crate::support::metrics::documented;
use crate::support::promtool::promtool;

mod cloudwatch;
mod compose;

/// Metrics of Postgres' and RabbitMQ's exporters.
const OF_SERVICES: [&str; 2] = ["pg_", "rabbitmq_"];

fn deploy(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

/// Runs the tool, and returns what it says.
fn run(arguments: &[&str], folder: &Path) -> Result<String> {
    let done = Command::new(promtool()?).args(arguments).current_dir(folder).output()?;
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "promtool {arguments:?}: {said}");
    Ok(said.into_owned())
}

#[test]
fn alerts_are_valid_and_fire_when_they_should() -> Result<()> {
    let folder = deploy("prometheus");
    run(&["check", "rules", "--lint-fatal", "alerts.yml"], &folder)?;
    run(&["test", "rules", "alerts.test.yml"], &folder)?;
    let tests = std::fs::read_to_string(folder.join("alerts.test.yml"))?;
    for name in alerts()? {
        ensure!(tests.contains(&format!("- name: {name}\n")), "no test of the alert {name}");
    }
    Ok(())
}

/// The names of the alerts.
fn alerts() -> Result<Vec<String>> {
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml"))?;
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn each_alert_has_a_runbook() -> Result<()> {
    let runbooks = std::fs::read_to_string(root().join("docs/alerts.md"))?;
    let sections: Vec<&str> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(
        sections,
        alerts()?,
        "the sections of docs/alerts.md are the alerts, in their order"
    );
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml"))?;
    for name in sections {
        let link = format!("docs/alerts.md#{}\n", name.to_lowercase());
        ensure!(rules.contains(&link), "the alert {name} does not link to its runbook");
    }
    Ok(())
}

/// Every query of every dashboard, with the panel's title.
fn queries() -> Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(deploy("grafana/dashboards"))? {
        let path = entry?.path();
        let board: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let panels = board["panels"].as_array().context("panels")?;
        let titled = |panel: &Value| format!("{}: {}", path.display(), panel["title"]);
        let notes = board["annotations"]["list"].as_array().into_iter().flatten();
        for (title, query) in panels
            .iter()
            .flat_map(|panel| {
                let targets = panel["targets"].as_array().into_iter().flatten();
                targets.map(move |target| (titled(panel), &target["expr"]))
            })
            .chain(notes.map(|note| (titled(note), &note["expr"])))
        {
            queries.push((title, query.as_str().context("a query")?.to_owned()));
        }
    }
    ensure!(queries.len() > 40, "only {} queries were found", queries.len());
    Ok(queries)
}

/// The names in a query or a rule that may be those of metrics.
fn metrics_of(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
    let starts = ["postrider_", "process_"];
    words.filter(move |word| starts.iter().chain(&OF_SERVICES).any(|start| word.starts_with(start)))
}

#[test]
fn every_query_names_metrics_that_exist() -> Result<()> {
    let documented = documented()?;
    let known: BTreeSet<String> = documented
        .iter()
        .flat_map(|(name, (kind, _))| {
            let ends: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            ends.iter().map(move |end| format!("{name}{end}"))
        })
        .collect();
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml"))?;
    let rules = rules.lines().filter(|line| !line.trim().starts_with("runbook_url")).collect();
    let all = queries()?.into_iter().chain([("alerts.yml".to_owned(), rules)]);
    for (place, query) in all {
        for name in metrics_of(&query) {
            let foreign = OF_SERVICES.iter().any(|start| name.starts_with(start));
            ensure!(foreign || known.contains(name), "{place}: there is no metric {name}");
        }
    }
    Ok(())
}

#[test]
fn every_query_of_a_dashboard_is_valid() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Recording rules, because the tool checks those.
    let rules: Vec<Value> = queries()?
        .into_iter()
        .enumerate()
        .map(|(number, (_, query))| {
            let query = query.replace("$__rate_interval", "5m").replace("$stage", "payment");
            serde_json::json!({ "record": format!("query_{number}"), "expr": query })
        })
        .collect();
    let rules = serde_json::json!({ "groups": [{ "name": "queries", "rules": rules }] });
    // JSON is YAML.
    std::fs::write(folder.path().join("queries.yml"), rules.to_string())?;
    run(&["check", "rules", "queries.yml"], folder.path())?;
    Ok(())
}
