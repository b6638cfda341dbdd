//! Checks of the store and the broker: reachable, the right schema and queues, and clocks that agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Finding, Stages};
use crate::host::postgres_settings;
use postrider::Config;
use postrider::internals::{
    BrokerUrl, DatabaseStatus, HostReport, PostgresStore, QueueStatus, Rabbit, RabbitServer,
    SchemaStatus, SqliteStore, StoreUrl, SubjectKinds, UnroutedEvents,
};

/// Maximum clock difference. Leases and due times are wrong by as much as the clocks differ.
const SKEW_MAX_MS: u64 = 2_000;

pub(super) async fn store(config: &Config) -> Vec<Finding> {
    match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Sqlite(path)) => sqlite(config, path).await,
        Some(StoreUrl::Postgres(url)) => postgres(config, url).await,
        None => Vec::new(),
    }
}

/// The kinds of a configuration; without them, why it is invalid.
fn kinds(config: &Config) -> Result<Arc<SubjectKinds>, Vec<Finding>> {
    config.kinds().map_err(|error| vec![Finding::failed("store", error)])
}

async fn sqlite(config: &Config, path: &str) -> Vec<Finding> {
    let kinds = match kinds(config) {
        Ok(kinds) => kinds,
        Err(findings) => return findings,
    };
    let examined = SqliteStore::examine(path.as_ref(), &config.namespace, &kinds).await;
    let status = match examined {
        Ok(status) => status,
        Err(error) => return vec![Finding::failed("store", error)],
    };
    let found = match status.schema {
        SchemaStatus::New => format!("{path} does not exist yet; a host creates it on startup"),
        SchemaStatus::InUse => format!("{path} is in use by a running host"),
        SchemaStatus::Current => format!("{path}: the schema is up to date"),
        SchemaStatus::Older => {
            format!("{path} has an older schema; a host migrates it on startup")
        }
    };
    let mut findings = vec![Finding::ok("store", found)];
    findings.extend(unrouted(&status.unrouted));
    findings
}

async fn postgres(config: &Config, url: &str) -> Vec<Finding> {
    let kinds = match kinds(config) {
        Ok(kinds) => kinds,
        Err(findings) => return findings,
    };
    let places = config.state_places();
    let examined = PostgresStore::examine(postgres_settings(config, url, &places), &kinds).await;
    let status = match examined {
        Ok(status) => status,
        Err(error) => return vec![Finding::failed("store", error)],
    };
    let server = &status.server;
    let schema = match status.missing {
        None => Finding::ok("store", format!("{server}: the schema is up to date")),
        Some(_) if config.store.migrate => Finding::ok(
            "store",
            format!("{server} has an older schema; a host migrates it on startup"),
        ),
        Some(version) => Finding::problem(
            "store",
            format!("{server} lacks schema version {version}"),
            "run `postrider migrate`",
        ),
    };
    let mut findings = vec![schema, clock(server, status.clock_ahead_ms)];
    findings.extend(state_places(config.store.migrate, &status));
    findings.extend(hosts(&config.namespace, &status.hosts));
    findings.extend(unrouted(&status.unrouted));
    findings
}

/// Stages whose state is not where the configuration wants it, or cannot be used there.
fn state_places(migrates: bool, status: &DatabaseStatus) -> Vec<Finding> {
    let problems = status.place_problems.iter();
    let mut findings: Vec<Finding> = problems
        .map(|found| Finding::problem(found.key.as_str(), found.problem.as_str(), &found.remedy))
        .collect();
    findings.extend(status.place_changes.iter().map(|change| {
        if migrates {
            let remedy = "stop every host of the namespace: the next one that starts moves the \
                          state; or change the configuration back";
            Finding::warning(change.key.as_str(), change.problem.as_str(), remedy)
        } else {
            Finding::problem(change.key.as_str(), change.problem.as_str(), &change.remedy)
        }
    }));
    findings
}

/// Settings that should be the same on every host of a namespace, and are not.
fn hosts(namespace: &str, hosts: &[HostReport]) -> Vec<Finding> {
    let keys: BTreeSet<&String> = hosts.iter().flat_map(|host| host.settings.keys()).collect();
    let differing = keys.into_iter().filter_map(|key| {
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for host in hosts {
            let value = host.settings.get(key).map_or("not set", String::as_str);
            values.entry(value).or_default().push(&host.host);
        }
        let listed = values.iter().map(|(value, hosts)| format!("{value} on {}", hosts.join(", ")));
        (values.len() > 1).then(|| {
            Finding::warning(
                format!("setting {key}"),
                format!(
                    "the hosts of the namespace `{namespace}` disagree: {}",
                    listed.collect::<Vec<_>>().join("; ")
                ),
                "give all hosts of a namespace the same configuration, and restart them",
            )
        })
    });
    differing.collect()
}

fn unrouted(waiting: &[UnroutedEvents]) -> Vec<Finding> {
    let finding = |events: &UnroutedEvents| {
        Finding::warning(
            format!("unrouted {}", events.event_type),
            format!("{} events wait, because no stage consumes their type", events.count),
            format!("add a stage that consumes `{}`, or cancel their subjects", events.event_type),
        )
    };
    waiting.iter().map(finding).collect()
}

fn clock(server: &str, ahead_ms: i64) -> Finding {
    let found = format!(
        "the clock of {server} is {} ms {} this machine's",
        ahead_ms.unsigned_abs(),
        if ahead_ms < 0 { "behind" } else { "ahead of" }
    );
    if ahead_ms.unsigned_abs() > SKEW_MAX_MS {
        return Finding::warning("clock", found, "synchronise both machines with NTP");
    }
    Finding::ok("clock", found)
}

pub(super) async fn broker(config: &Config, stages: &Stages) -> Vec<Finding> {
    let Some(BrokerUrl::Amqp(url)) = BrokerUrl::parse(&config.broker.url) else {
        return vec![Finding::ok("broker", "the embedded broker is always available")];
    };
    let server = RabbitServer { url: url.to_owned(), tls: config.broker.tls.files() };
    let queues = match Rabbit::examine(&server, &config.namespace, stages).await {
        Ok(queues) => queues,
        Err(why) => {
            let remedy = "check that RabbitMQ is running, the user, password and vhost in broker.url, and \
                 the files in broker.tls";
            return vec![Finding::problem(
                "broker",
                format!("cannot connect to RabbitMQ: {why}"),
                remedy,
            )];
        }
    };
    let mut findings = vec![Finding::ok("broker", "connected to RabbitMQ")];
    for (name, status) in queues {
        let check = format!("queue {name}");
        findings.push(match status {
            QueueStatus::Missing => {
                Finding::ok(check, "does not exist yet; a host declares it on startup")
            }
            QueueStatus::Fits { waiting, consumers: 0 } if waiting > 0 => Finding::warning(
                check,
                format!("{waiting} messages waiting, but no consumers"),
                "start a host, or check `postrider stages list` on a running one",
            ),
            QueueStatus::Fits { waiting, consumers } => {
                Finding::ok(check, format!("{waiting} messages waiting, {consumers} consumers"))
            }
            QueueStatus::Refused(why) => Finding::failed(&check, anyhow::Error::msg(why)),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::Level;

    #[test]
    fn hosts_whose_settings_disagree_are_named() {
        let host = |name: &str, expiry: &str| HostReport {
            host: name.to_owned(),
            settings: [("events.expiry_ms", expiry), ("events.hops_max", "64")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        assert_eq!(hosts("orders", &[host("a", "1"), host("b", "1")]), []);
        let found = hosts("orders", &[host("a", "1"), host("b", "2"), host("c", "1")]);
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(finding.check, "setting events.expiry_ms");
        assert!(finding.found.ends_with("disagree: 1 on a, c; 2 on b"), "{}", finding.found);
    }

    #[test]
    fn clock_skew_in_either_direction_is_a_warning() {
        for (ahead_ms, level) in [
            (-3_000, Level::Warning),
            (-100, Level::Ok),
            (1_999, Level::Ok),
            (60_000, Level::Warning),
        ] {
            assert_eq!(clock("db:5432/orders", ahead_ms).level, level, "{ahead_ms}");
        }
        assert_eq!(clock("db", -3_000).found, "the clock of db is 3000 ms behind this machine's");
    }
}
