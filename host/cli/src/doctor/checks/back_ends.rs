//! Checks of the store and the broker: reachable, the right schema and queues, and clocks that agree.

use std::time::Duration;

use super::{Finding, Stages};
use postrider::Config;
use postrider::internals::{
    BrokerUrl, PostgresStore, QueueStatus, Rabbit, SchemaStatus, SqliteStore, StoreUrl,
};

/// Maximum clock difference. Leases and due times are wrong by as much as the clocks differ.
const SKEW_MAX_MS: u64 = 2_000;

pub(super) async fn store(config: &Config) -> Vec<Finding> {
    match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Sqlite(path)) => vec![match SqliteStore::examine(path.as_ref()).await {
            Ok(SchemaStatus::New) => Finding::ok(
                "store",
                format!("{path} does not exist yet; a host creates it on startup"),
            ),
            Ok(SchemaStatus::InUse) => {
                Finding::ok("store", format!("{path} is in use by a running host"))
            }
            Ok(SchemaStatus::Current) => {
                Finding::ok("store", format!("{path}: the schema is up to date"))
            }
            Ok(SchemaStatus::Older) => Finding::ok(
                "store",
                format!("{path} has an older schema; a host migrates it on startup"),
            ),
            Err(error) => Finding::failed("store", error),
        }],
        Some(StoreUrl::Postgres(url)) => {
            match PostgresStore::examine(url, Duration::from_millis(config.store.timeout_ms)).await
            {
                Ok(status) => {
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
                    vec![schema, clock(server, status.clock_ahead_ms)]
                }
                Err(error) => vec![Finding::failed("store", error)],
            }
        }
        None => Vec::new(),
    }
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
    let queues = match Rabbit::examine(url, &config.namespace, stages).await {
        Ok(queues) => queues,
        Err(why) => {
            let remedy =
                "check that RabbitMQ is running, and the user, password and vhost in broker.url";
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
