//! The store and the broker: whether they answer, whether they are ours, whether their clock is
//! right.

use std::time::Duration;

use super::{Finding, Stages};
use postrider::broker::rabbit::{QueueStatus, Rabbit};
use postrider::config::{BrokerUrl, Config, StoreUrl};
use postrider::store::postgres::PostgresStore;
use postrider::store::sqlite::{SchemaStatus, SqliteStore};

/// Clocks that differ by more make leases and due times wrong by as much.
const SKEW_MAX_MS: u64 = 2_000;

pub(super) async fn store(config: &Config) -> Vec<Finding> {
    match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Sqlite(path)) => vec![match SqliteStore::examine(path.as_ref()).await {
            Ok(SchemaStatus::New) => Finding::ok("store", format!("{path} will be created")),
            Ok(SchemaStatus::InUse) => {
                Finding::ok("store", format!("{path} is in use by a running host"))
            }
            Ok(SchemaStatus::Current) => {
                Finding::ok("store", format!("{path} has the schema of this version"))
            }
            Ok(SchemaStatus::Older) => Finding::ok(
                "store",
                format!(
                    "{path} is of an older version, and is brought up to date when a host starts"
                ),
            ),
            Err(error) => Finding::failed("store", error),
        }],
        Some(StoreUrl::Postgres(url)) => {
            match PostgresStore::examine(url, Duration::from_millis(config.store.timeout_ms)).await
            {
                Ok(standing) => {
                    let server = &standing.server;
                    let schema = match standing.missing {
                        None => Finding::ok(
                            "store",
                            format!("{server} answers and has the schema of this version"),
                        ),
                        Some(_) if config.store.migrate => Finding::ok(
                            "store",
                            format!(
                                "{server} answers; its schema is brought up to date when a host starts"
                            ),
                        ),
                        Some(version) => Finding::problem(
                            "store",
                            format!("{server} lacks schema {version}"),
                            "run `postrider migrate`",
                        ),
                    };
                    vec![schema, clock(server, standing.clock_ahead_ms)]
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
        return Finding::warning(
            "clock",
            found,
            "let both machines follow the same time servers (NTP)",
        );
    }
    Finding::ok("clock", found)
}

pub(super) async fn broker(config: &Config, stages: &Stages) -> Vec<Finding> {
    let Some(BrokerUrl::Amqp(url)) = BrokerUrl::parse(&config.broker.url) else {
        return vec![Finding::ok("broker", "the embedded queue needs nothing")];
    };
    let queues = match Rabbit::examine(url, &config.namespace, stages).await {
        Ok(queues) => queues,
        Err(why) => {
            let remedy =
                "check that RabbitMQ runs there, and the user, password and vhost of broker.url";
            return vec![Finding::problem("broker", format!("no connection: {why}"), remedy)];
        }
    };
    let mut findings = vec![Finding::ok("broker", "RabbitMQ answers")];
    for (name, standing) in queues {
        let check = format!("queue {name}");
        findings.push(match standing {
            QueueStatus::Missing => Finding::ok(check, "will be declared"),
            QueueStatus::Fits { waiting, consumers: 0 } if waiting > 0 => Finding::warning(
                check,
                format!("{waiting} messages wait and nobody consumes"),
                "start a host, or look at `postrider stages list` of those that run",
            ),
            QueueStatus::Fits { waiting, consumers } => {
                Finding::ok(check, format!("{waiting} messages wait, {consumers} consumers"))
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
    fn a_clock_that_is_wrong_either_way_is_said() {
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
