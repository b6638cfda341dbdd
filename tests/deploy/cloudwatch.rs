//! `deploy/cloudwatch`: the agent publishes every metric that the dashboard and the alarms read, with the
//! same dimensions, and each alert of Prometheus has its alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use regex::Regex;
use serde_json::Value;

use super::{deploy, metrics_of};
use crate::support::metrics::documented;
use crate::support::yaml;

/// Labels of the scrape, which every metric has.
const OF_SCRAPE: [&str; 2] = ["instance", "job"];
/// The namespace of all metrics.
const NAMESPACE: &str = "Postrider";

/// What a place reads, or what the agent publishes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Metric {
    name: String,
    dimensions: BTreeSet<String>,
}

impl Metric {
    fn new<'a>(name: &str, dimensions: impl IntoIterator<Item = &'a str>) -> Self {
        let dimensions = dimensions.into_iter().map(str::to_owned).collect();
        Self { name: name.to_owned(), dimensions }
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("no text: {value}"))
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

/// A text as it is, or the one whose parameters are replaced.
fn substituted(value: &Value) -> Result<&str> {
    text(value.get("!Sub").unwrap_or(value))
}

fn template() -> Result<Value> {
    yaml::read(&deploy("cloudwatch/template.yaml"))
}

fn agent() -> Result<Value> {
    let bytes = std::fs::read(deploy("cloudwatch/agent.json"))?;
    let whole: Value = serde_json::from_slice(&bytes)?;
    let section = whole.pointer("/logs/metrics_collected/prometheus");
    Ok(section.context("no section `prometheus`")?.clone())
}

/// The properties of the alarms by the names of the alerts, those of stages as well.
fn alarms(template: &Value) -> Result<BTreeMap<String, Value>> {
    let resources = template["Resources"].as_object().context("Resources")?;
    let of_stages = &list(&resources["Fn::ForEach::Stages"])?[2];
    let of_stages = of_stages.as_object().context("the alarms of a stage")?;
    let all = resources.iter().chain(of_stages);
    let alarms = all.filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    let named = alarms.map(|(name, alarm)| {
        (name.trim_end_matches("&{Stage}").to_owned(), alarm["Properties"].clone())
    });
    Ok(named.collect())
}

/// The metrics of a metric, a query or a search.
fn in_expression(expression: &str) -> Result<Vec<Metric>> {
    static SEARCH: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"SEARCH\('\{Postrider,([^}]*)\} MetricName="(\w+)"([^']*)'"#).expect("valid")
    });
    static SELECT: LazyLock<Regex> = LazyLock::new(|| {
        let pattern =
            r#"SELECT [A-Z]+\((\w+)\) FROM SCHEMA\("Postrider", ([^)]*)\) WHERE (.*)GROUP BY (.*)"#;
        Regex::new(pattern).expect("valid")
    });
    static CONDITION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\w+) ?=").expect("valid"));
    let mut found = Vec::new();
    let mut read = |name: &str, dimensions: &str, conditions: &str| -> Result<()> {
        let dimensions = dimensions.split(',').map(|one| one.trim().trim_matches('"'));
        let metric = Metric::new(name, dimensions);
        for condition in CONDITION.captures_iter(conditions) {
            let known = metric.dimensions.contains(&condition[1]);
            ensure!(known, "{expression}: {} is no dimension of it", &condition[1]);
        }
        found.push(metric);
        Ok(())
    };
    for search in SEARCH.captures_iter(expression) {
        read(&search[2], &search[1], &search[3])?;
    }
    for select in SELECT.captures_iter(expression) {
        read(&select[1], &select[2], &select[3])?;
        for grouped in select[4].split(" ORDER BY ").next().unwrap_or_default().split(',') {
            let grouped = grouped.trim();
            let quoted = grouped == "\"limit\"" || !grouped.eq_ignore_ascii_case("limit");
            ensure!(quoted, "{expression}: {grouped} is a keyword");
            read(&select[1], &select[2], &format!("{} =", grouped.trim_matches('"')))?;
        }
    }
    let expected = expression.matches("SEARCH").count() + expression.matches("SELECT").count();
    ensure!(expected == 0 || !found.is_empty(), "not understood: {expression}");
    Ok(found)
}

/// The metric of an alarm's own properties or of a `MetricStat`.
fn in_properties(properties: &Value) -> Result<Metric> {
    ensure!(properties["Namespace"] == NAMESPACE, "{properties}");
    let dimensions: Vec<&str> = list(&properties["Dimensions"])?
        .iter()
        .map(|one| text(&one["Name"]))
        .collect::<Result<_>>()?;
    Ok(Metric::new(text(&properties["MetricName"])?, dimensions))
}

/// What an alarm reads. Its expressions use only what it defines, and one of them is what it watches.
fn in_alarm(name: &str, alarm: &Value) -> Result<Vec<Metric>> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[a-z]\w*").expect("valid"));
    let Some(all) = alarm["Metrics"].as_array() else { return Ok(vec![in_properties(alarm)?]) };
    let ids: Vec<&str> = all.iter().map(|one| text(&one["Id"])).collect::<Result<_>>()?;
    let watched = all.iter().filter(|one| one["ReturnData"] == true).count();
    ensure!(watched == 1, "{name} watches {watched} time series");
    let mut found = Vec::new();
    for one in all {
        if one["MetricStat"].is_object() {
            found.push(in_properties(&one["MetricStat"]["Metric"])?);
            continue;
        }
        let expression = substituted(&one["Expression"])?;
        let queried = in_expression(expression)?;
        let words = WORD.find_iter(expression).map(|word| word.as_str());
        let unknown: Vec<_> = words.filter(|word| !ids.contains(word)).collect();
        ensure!(!queried.is_empty() || unknown.is_empty(), "{name}: {unknown:?} is not defined");
        found.extend(queried);
    }
    Ok(found)
}

/// What a widget reads.
fn in_widget(widget: &Value) -> Result<Vec<Metric>> {
    let mut found = Vec::new();
    for metric in list(&widget["properties"]["metrics"])? {
        let metric = list(metric)?;
        if let Some(expression) = metric[0]["expression"].as_str() {
            found.extend(in_expression(expression)?);
            continue;
        }
        ensure!(metric[0] == NAMESPACE, "{metric:?}");
        // Names and values take turns.
        let pairs = metric[2..].iter().take_while(|one| one.is_string()).step_by(2);
        found.push(Metric::new(text(&metric[1])?, pairs.filter_map(Value::as_str)));
    }
    Ok(found)
}

/// What the alarms and the dashboard read, each with its place.
fn read() -> Result<Vec<(String, Metric)>> {
    let template = template()?;
    let mut found = Vec::new();
    for (name, alarm) in alarms(&template)? {
        found.extend(in_alarm(&name, &alarm)?.into_iter().map(|metric| (name.clone(), metric)));
    }
    let body = &template["Resources"]["Dashboard"]["Properties"]["DashboardBody"];
    let board: Value = serde_json::from_str(substituted(body)?).context("the dashboard")?;
    for widget in list(&board["widgets"])? {
        let title = text(&widget["properties"]["title"])?;
        found.extend(in_widget(widget)?.into_iter().map(|metric| (title.to_owned(), metric)));
    }
    ensure!(found.len() > 40, "only {} metrics were found", found.len());
    Ok(found)
}

/// What the agent publishes. Each selector selects metrics that exist, that have the labels of the
/// dimensions, and whose type the agent does not drop.
fn published() -> Result<BTreeSet<Metric>> {
    let documented = documented()?;
    let agent = agent()?;
    let mut published = BTreeSet::new();
    for declaration in list(&agent["emf_processor"]["metric_declaration"])? {
        ensure!(declaration["source_labels"] == serde_json::json!(["job"]), "{declaration}");
        for selector in list(&declaration["metric_selectors"])? {
            let selector = Regex::new(text(selector)?)?;
            let mut selected =
                documented.iter().filter(|(name, _)| selector.is_match(name)).peekable();
            ensure!(selected.peek().is_some(), "{selector} selects no metric");
            for (name, (kind, labels)) in selected {
                ensure!(kind != "histogram", "the agent drops the histogram {name}");
                for dimensions in list(&declaration["dimensions"])? {
                    let names: Vec<&str> =
                        list(dimensions)?.iter().map(text).collect::<Result<_>>()?;
                    let missing = names
                        .iter()
                        .find(|one| !labels.contains(**one) && !OF_SCRAPE.contains(one));
                    ensure!(missing.is_none(), "{name} has no label {missing:?}");
                    published.insert(Metric::new(name, names));
                }
            }
        }
    }
    Ok(published)
}

#[test]
fn the_agent_publishes_what_alarms_and_widgets_read() -> Result<()> {
    let (read, published) = (read()?, published()?);
    for (place, metric) in &read {
        ensure!(published.contains(metric), "{place}: the agent does not publish {metric:?}");
    }
    // Each costs money.
    let unread: Vec<_> =
        published.iter().filter(|metric| !read.iter().any(|(_, read)| read == *metric)).collect();
    ensure!(unread.is_empty(), "nothing reads {unread:?}");
    Ok(())
}

#[test]
fn each_alert_has_an_alarm_with_its_runbook() -> Result<()> {
    let mut alarms = alarms(&template()?)?;
    let rules = yaml::read(&deploy("prometheus/alerts.yml"))?;
    for rule in list(&rules["groups"][0]["rules"])? {
        let name = text(&rule["alert"])?;
        let Some(alarm) = alarms.remove(name) else {
            // The agent drops histograms.
            let metrics: Vec<&str> = metrics_of(text(&rule["expr"])?).collect();
            let dropped = metrics.iter().all(|metric| metric.ends_with("_bucket"));
            ensure!(dropped, "no alarm for the alert {name}, which needs {metrics:?}");
            continue;
        };
        let description = substituted(&alarm["AlarmDescription"])?;
        let runbook = text(&rule["annotations"]["runbook_url"])?;
        ensure!(description.ends_with(&format!(" {runbook}")), "{name}: {description}");
        let severity = &alarm["Tags"][0];
        let expected = &rule["labels"]["severity"];
        ensure!(
            severity["Key"] == "severity" && severity["Value"] == *expected,
            "{name}: {severity}"
        );
        ensure!(substituted(&alarm["AlarmName"])?.contains(name), "{name}: its name");
        let topic = match text(expected)? {
            "critical" => Some("CriticalTopicArn"),
            "warning" => Some("WarningTopicArn"),
            _ => None,
        };
        let notified = alarm["AlarmActions"].to_string();
        ensure!(topic.is_none_or(|topic| notified.contains(topic)), "{name}: {notified}");
    }
    ensure!(alarms.is_empty(), "no alert for the alarms {:?}", alarms.keys());
    Ok(())
}

#[test]
fn template_agent_and_scrape_agree() -> Result<()> {
    let (template, agent) = (template()?, agent()?);
    let scrape = yaml::read(&deploy("cloudwatch/prometheus.yml"))?;
    let job = &scrape["scrape_configs"][0]["job_name"];
    assert_eq!(template["Parameters"]["Job"]["Default"], *job);
    for declaration in list(&agent["emf_processor"]["metric_declaration"])? {
        assert_eq!(declaration["label_matcher"], format!("^{}$", text(job)?));
    }
    // The alarms take a sample for a minute.
    assert_eq!(scrape["global"]["scrape_interval"], "1m");
    assert_eq!(agent["emf_processor"]["metric_namespace"], NAMESPACE);
    let log = &template["Resources"]["MetricsLog"]["Properties"]["LogGroupName"];
    assert_eq!(agent["log_group_name"], *log);
    Ok(())
}
