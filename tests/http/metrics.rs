//! The metrics: each is in the table of `docs/metrics.md`, and Prometheus' own tool has no objection.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, on_both_back_ends};
use crate::support::metrics::{Metrics, documented};
use crate::support::promtool::promtool;

on_both_back_ends![metrics_are_those_of_the_table, what_waits_is_counted_in_the_store];

/// The metrics of a scrape in Prometheus' text format.
fn scraped(text: &str) -> Result<Metrics> {
    let mut metrics = Metrics::new();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in types {
        let (name, kind) = line.split_once(' ').context(line.to_owned())?;
        metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().context(line.to_owned())?;
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|name| metrics.contains_key(*name)));
        let family = family.unwrap_or(name);
        let (_, labels) = metrics.get_mut(family).with_context(|| format!("the type of {line}"))?;
        // Before each value, after the bracket or the comma.
        let named = line.split("=\"").filter_map(|part| part.rsplit_once(['{', ',']));
        labels.extend(named.map(|(_, label)| label.to_owned()).filter(|label| label != "le"));
    }
    Ok(metrics)
}

/// The metrics, once they contain this.
async fn served(host: &RunningHost, line: &str) -> Result<String> {
    eventually(line, || async {
        let text = host.client.text("/metrics").await?;
        Ok(text.contains(line).then_some(text))
    })
    .await
}

/// Orders of which one is finished, and one is a dead letter.
async fn process_orders(host: &RunningHost) -> Result<()> {
    host.client.stock("Book", 10).await?;
    let order = json!({ "order_id": "1", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("1", "ready").await?;
    let failing = json!({ "order_id": "2", "user_id": "1", "items": ["Book"], "total": 1, "force_fail": true });
    host.client.post("/orders", &failing).await?;
    eventually("the dead letter", || async {
        let (_, found) = host.client.get("/dead-letters").await?;
        Ok((found["items"][0]["stage"] == "payment").then_some(()))
    })
    .await
}

async fn metrics_are_those_of_the_table(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, "[stages.payment.retry]\nmax_attempts = 1\n").await?;
    let host = env.start().await?;
    process_orders(&host).await?;
    let finished = "postrider_subject_duration_seconds_count{kind=\"order\",status=\"ready\"} 1\n";
    let text = served(&host, finished).await?;
    let (documented, served) = (documented()?, scraped(&text)?);
    for (name, (kind, labels)) in &served {
        let (wanted, wanted_labels) =
            documented.get(name).with_context(|| format!("docs/metrics.md has no {name}"))?;
        ensure!(kind == wanted, "docs/metrics.md: {name} is a {kind}");
        // One without a value now has no labels.
        let values = text.lines().any(|line| line.starts_with(name));
        ensure!(
            !values || labels == wanted_labels,
            "docs/metrics.md: labels of {name}: {labels:?}"
        );
    }
    let missing: Vec<_> = documented.keys().filter(|name| !served.contains_key(*name)).collect();
    ensure!(missing.is_empty(), "docs/metrics.md has, and the host has not: {missing:?}");
    check_with_promtool(&text).await?;
    openmetrics_is_served_to_those_who_accept_it(&host).await?;
    host.stop().await
}

/// The tool has no objection.
async fn check_with_promtool(text: &str) -> Result<()> {
    let program: PathBuf = tokio::task::spawn_blocking(promtool).await??;
    let mut check = Command::new(program);
    check.args(["check", "metrics"]);
    check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = tokio::process::Command::from(check).spawn()?;
    let mut input = check.stdin.take().context("an input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let checked = check.wait_with_output().await?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success() && said.is_empty(), "promtool: {said}");
    Ok(())
}

async fn openmetrics_is_served_to_those_who_accept_it(host: &RunningHost) -> Result<()> {
    // What Prometheus 2.42 sends.
    let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                  text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let url = format!("{}/metrics", host.client.url);
    let answer = reqwest::Client::new().get(url).header(ACCEPT, accept).send().await?;
    let kind = answer.headers()[CONTENT_TYPE].to_str()?.to_owned();
    ensure!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = answer.text().await?;
    ensure!(text.ends_with("# EOF\n"), "{text}");
    ensure!(text.contains("# TYPE postrider_deliveries counter\n"), "{text}");
    Ok(())
}

/// A paused stage shows its whole backlog, and how old it is.
async fn what_waits_is_counted_in_the_store(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, "[defaults]\nprefetch = 2\n").await?;
    let host = env.start().await?;
    host.client.post("/stages/payment/pause", &json!({ "reason": "a test" })).await?;
    for id in 0..7 {
        let order =
            json!({ "order_id": format!("{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        host.client.post("/orders", &order).await?;
    }
    let waiting = "postrider_waiting_deliveries{stage=\"payment\"} 7.0\n";
    let text = served(&host, waiting).await?;
    let age = "postrider_oldest_waiting_delivery_age_seconds{stage=\"payment\"} ";
    let age = text.lines().find_map(|line| line.strip_prefix(age)).context("the age")?;
    ensure!(age.parse::<f64>()? > 0.0, "{age}");
    host.client.post("/stages/payment/resume", &json!({})).await?;
    let none = "postrider_waiting_deliveries{stage=\"payment\"} 0.0\n";
    served(&host, none).await?;
    host.stop().await
}
