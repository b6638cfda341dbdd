//! Prometheus with the alerts of `deploy/prometheus/alerts.yml`, on hosts of a test.
//!
//! The rules are those of the file, except that a minute is a second: how long a condition must
//! hold, and the windows of rates. Thresholds are unchanged.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::harness::{Client, eventually, root};
use super::process::unused_port;
use super::promtool::promtool;

/// How much shorter durations are here than in the file.
const FASTER: u64 = 60;

/// Time between two scrapes and two evaluations: a few in the shortest window.
const INTERVAL: &str = "500ms";

/// An alert, and the label that names what it is about; an empty name: no label.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) alert: &'static str,
    pub(crate) label: (&'static str, &'static str),
}

impl Expected {
    fn is_label_of(&self, alert: &Value) -> bool {
        let (name, value) = self.label;
        name.is_empty() || alert["labels"][name] == value
    }
}

/// A running server, killed when dropped.
pub(crate) struct Prometheus {
    child: Child,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it, and waits until every host was scraped and the rules were evaluated since.
    pub(crate) async fn watch(hosts: &[&Client]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = std::fs::read_to_string(root().join("deploy/prometheus/alerts.yml"))?;
        std::fs::write(folder.path().join("alerts.yml"), faster(&rules)?)?;
        let targets: Vec<&str> =
            hosts.iter().map(|host| host.url.trim_start_matches("http://")).collect();
        // JSON is YAML.
        let config = json!({
            "global": { "scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL },
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{ "job_name": "postrider", "static_configs": [{ "targets": targets }] }],
        });
        std::fs::write(folder.path().join("prometheus.yml"), config.to_string())?;
        let address = format!("127.0.0.1:{}", unused_port()?);
        let child = Command::new(promtool()?.with_file_name("prometheus"))
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .spawn()
            .context("Prometheus' server is beside promtool")?;
        let client = Client::new(format!("http://{address}"));
        let server = Self { child, client, _folder: folder };
        let up = format!("sum(up) == {}", hosts.len());
        eventually("a scrape of every host", || async {
            Ok((!server.query(&up).await.unwrap_or_default().is_empty()).then_some(()))
        })
        .await?;
        server.wait_for_evaluation().await?;
        Ok(server)
    }

    /// The series that a query returns.
    async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let encoded =
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let (status, answer) = self.client.get(&format!("/api/v1/query?query={encoded}")).await?;
        ensure!(status.is_success(), "{answer}");
        Ok(answer["data"]["result"].as_array().context("a result")?.clone())
    }

    /// Waits for an evaluation that begins from now on.
    async fn wait_for_evaluation(&self) -> Result<()> {
        // One may be in progress, so two end.
        for _ in 0..2 {
            let before = self.last_evaluation().await?;
            eventually("an evaluation", || async {
                Ok((self.last_evaluation().await? != before).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn last_evaluation(&self) -> Result<String> {
        let (_, answer) = self.client.get("/api/v1/rules").await?;
        Ok(answer["data"]["groups"][0]["lastEvaluation"].to_string())
    }

    /// Alerts of this name, those included whose condition has not held long enough.
    async fn alerts(&self, name: &str) -> Result<Vec<Value>> {
        let (status, answer) = self.client.get("/api/v1/alerts").await?;
        ensure!(status.is_success(), "{answer}");
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        Ok(alerts.iter().filter(|one| one["labels"]["alertname"] == name).cloned().collect())
    }

    /// Checks that the conditions of none of these hold.
    pub(crate) async fn ensure_silent(&self, expected: &[Expected]) -> Result<()> {
        self.wait_for_evaluation().await?;
        for Expected { alert, .. } in expected {
            let found = self.alerts(alert).await?;
            ensure!(found.is_empty(), "{alert} before its condition: {found:?}");
        }
        Ok(())
    }

    /// Waits until each of these fires, about what is expected and nothing else.
    pub(crate) async fn wait_for(&self, expected: &[Expected]) -> Result<()> {
        for one in expected {
            let alert = one.alert;
            let what = format!("{alert} to fire");
            let found = eventually(&what, || async {
                let found = self.alerts(alert).await?;
                Ok(found.iter().any(|alert| alert["state"] == "firing").then_some(found))
            })
            .await?;
            let unexpected = found.iter().find(|alert| !one.is_label_of(alert));
            ensure!(unexpected.is_none(), "{alert} about something else: {found:?}");
            println!("fired: {}", found[0]["annotations"]["summary"]);
        }
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rules with shorter durations. What they compare with is unchanged.
fn faster(rules: &str) -> Result<String> {
    let mut lines = Vec::new();
    for line in rules.lines() {
        if let Some((start, duration)) =
            line.split_once("for: ").filter(|(start, _)| start.trim().is_empty())
        {
            lines.push(format!("{start}for: {}", shorter(duration)?));
        } else if line.trim_start().starts_with("summary:") {
            lines.push(line.to_owned());
        } else {
            // Windows are the only ones in square brackets.
            let mut parts = line.split('[');
            let mut changed = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (duration, rest) = part.split_once(']').context(line.to_owned())?;
                changed += &format!("[{}]{rest}", shorter(duration)?);
            }
            lines.push(changed);
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// A duration in Prometheus' form, such as `5m`.
fn shorter(duration: &str) -> Result<String> {
    let duration = duration.trim();
    let unit = duration.trim_start_matches(|one: char| one.is_ascii_digit());
    let number: u64 = duration.trim_end_matches(unit).parse()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => anyhow::bail!("the duration `{duration}`"),
    };
    Ok(format!("{}ms", Duration::from_secs(number * seconds).as_millis() as u64 / FASTER))
}
