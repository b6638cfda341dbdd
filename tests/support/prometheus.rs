//! Prometheus with the alerts of `deploy/prometheus/alerts.yml`, on hosts of a test.
//!
//! The rules are those of the file, except that a minute is a second: how long a condition must
//! hold, at most twenty seconds here, and the windows of rates. Thresholds are unchanged.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::harness::{Client, eventually, root};
use super::process::unused_port;
use super::promtool::promtool;

/// How much shorter durations are here than in the file.
const FASTER: u64 = 60;

/// Longest time for which a condition must hold here.
const FOR_MAX_MS: u64 = 20_000;

/// In which alerts fire once their conditions hold, on a busy machine.
const FIRES_WITHIN: Duration = Duration::from_secs(75);

/// Time between two scrapes and two evaluations: a few in the shortest window.
const INTERVAL: &str = "500ms";

/// Time between two looks at the alerts: several in the time between two evaluations.
const POLL: Duration = Duration::from_millis(100);

/// An alert, and the label that names what it is about; an empty name: no label.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) alert: &'static str,
    pub(crate) label: (&'static str, &'static str),
    /// Other values of the label whose condition may hold, too.
    pub(crate) also: &'static [&'static str],
}

impl Expected {
    /// Whether this alert fires about what is expected; an error if about anything else.
    fn is_among(&self, firing: &[Value]) -> Result<bool> {
        let (name, value) = self.label;
        if name.is_empty() {
            return Ok(!firing.is_empty());
        }
        let of = |alert: &Value| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let unexpected =
            firing.iter().map(of).find(|of| of != value && !self.also.contains(&of.as_str()));
        ensure!(unexpected.is_none(), "{} about {unexpected:?}: {firing:?}", self.alert);
        Ok(firing.iter().any(|alert| of(alert) == value))
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

    /// Waits until each of these has fired, about what is expected and nothing else. The error names
    /// every one that has not.
    pub(crate) async fn wait_for(&self, expected: &[Expected]) -> Result<()> {
        let mut silent: BTreeSet<&str> = expected.iter().map(|one| one.alert).collect();
        let firing = async {
            while !silent.is_empty() {
                for one in expected {
                    let mut found = self.alerts(one.alert).await?;
                    found.retain(|alert| alert["state"] == "firing");
                    if one.is_among(&found)? && silent.remove(one.alert) {
                        println!("fired: {}", found[0]["annotations"]["summary"]);
                    }
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        if let Ok(fired) = tokio::time::timeout(FIRES_WITHIN, firing).await {
            return fired;
        }
        let mut missing = Vec::new();
        for alert in silent {
            let pending = self.alerts(alert).await?;
            missing.push(format!("{alert} (pending: {pending:?})"));
        }
        anyhow::bail!("did not fire within {FIRES_WITHIN:?}: {}", missing.join(", "))
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
            lines.push(format!("{start}for: {}ms", shorter_ms(duration)?.min(FOR_MAX_MS)));
        } else if line.trim_start().starts_with("summary:") {
            lines.push(line.to_owned());
        } else {
            // Windows are the only ones in square brackets.
            let mut parts = line.split('[');
            let mut changed = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (duration, rest) = part.split_once(']').context(line.to_owned())?;
                write!(changed, "[{}ms]{rest}", shorter_ms(duration)?)?;
            }
            lines.push(changed);
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// A duration in Prometheus' form, such as `5m`, as so many milliseconds here.
fn shorter_ms(duration: &str) -> Result<u64> {
    let duration = duration.trim();
    let unit = duration.trim_start_matches(|one: char| one.is_ascii_digit());
    let number: u64 = duration.trim_end_matches(unit).parse()?;
    let ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => anyhow::bail!("the duration `{duration}`"),
    };
    Ok(number * ms / FASTER)
}
