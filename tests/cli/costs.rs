//! The costs of an order, as `postrider bench --costs` measures them, stay within a budget.
//!
//! The orders come one after another, with time in between, so that an order shares no commit: then it
//! costs the most, and one more statement or index entry exceeds the budget. On a busy machine orders
//! share commits, and some figures are lower. The time on the processor and the context switches
//! depend on the machine, so they have no budget; nor has `background`, which is what happens outside
//! of the steps.
//!
//! If a higher cost is justified, raise the budget in the same commit and say why; a change that
//! costs less lowers it.

use anyhow::{Context as _, Result, ensure};
use postrider_tests::private_servers::PrivatePostgres;
use serde_json::Value;

use crate::support::harness::TestEnv;
use crate::support::process::postrider;
use crate::support::servers::amqp_url;

/// The most that an order may cost: where in the report, the figures and their budgets.
type Budget = &'static [(&'static str, &'static [(&'static str, f64)])];

/// The budgets of allocations leave 3 %, for another compiler; those of counts leave less than one.
const REQUEST: &[(&str, f64)] = &[
    ("allocations", 136.0),
    ("allocated_bytes", 12_100.0),
    ("json_reads", 2.1),
    ("json_writes", 2.1),
    ("statements", 0.1),
];

const CALL: &[(&str, f64)] = &[("allocations", 215.0), ("allocated_bytes", 66_500.0)];

const EMBEDDED: Budget = &[
    ("steps/request", REQUEST),
    (
        "steps/commit",
        &[
            ("allocations", 586.0),
            ("allocated_bytes", 71_800.0),
            ("json_writes", 21.5),
            ("statements", 35.5),
            ("rows_changed", 21.5),
            // The subject and four batches.
            ("commits", 5.1),
        ],
    ),
    ("steps/publish", &[("allocations", 20.0), ("allocated_bytes", 600.0)]),
    ("steps/consume", &[("allocations", 13.0), ("allocated_bytes", 3_000.0)]),
    (
        "steps/batch",
        &[
            ("allocations", 362.0),
            ("allocated_bytes", 62_200.0),
            ("json_reads", 4.1),
            ("json_writes", 4.1),
            ("statements", 4.1),
        ],
    ),
    ("steps/call", CALL),
    // Checkpoints come when the log is long enough, which differs from run to run.
    ("process", &[("file_bytes", 280_000.0)]),
];

const SERVERS: Budget = &[
    ("steps/request", REQUEST),
    (
        "steps/commit",
        &[
            ("allocations", 983.0),
            ("allocated_bytes", 180_000.0),
            ("json_writes", 14.5),
            ("statements", 43.5),
            ("round_trips", 38.5),
            ("rows_changed", 22.5),
            ("commits", 5.5),
        ],
    ),
    // Everything is handed over within the host, except what would wait for long on a busy machine: a
    // tenth of the messages.
    ("steps/publish", &[("allocations", 40.0), ("amqp_published", 0.5), ("amqp_bytes", 750.0)]),
    (
        "steps/consume",
        &[("allocations", 21.0), ("allocated_bytes", 2_900.0), ("amqp_delivered", 0.5)],
    ),
    (
        "steps/batch",
        &[
            ("allocations", 370.0),
            ("allocated_bytes", 76_000.0),
            ("json_reads", 4.1),
            // A connection is checked once a second.
            ("statements", 4.6),
            ("round_trips", 4.6),
            ("amqp_acks", 0.5),
        ],
    ),
    ("steps/call", CALL),
    ("postgres/tables/deliveries", &[("inserted", 4.1), ("updated", 4.1), ("index_entries", 16.4)]),
    ("postgres/tables/events", &[("inserted", 5.1), ("index_entries", 25.5)]),
    ("postgres/tables/state", &[("inserted", 3.1), ("updated", 1.1), ("index_entries", 6.2)]),
    // The index of owners counts, although it has no entry without tokens.
    ("postgres/tables/subjects", &[("inserted", 1.1), ("updated", 3.1), ("index_entries", 18.2)]),
    (
        "postgres/total",
        &[
            ("inserted", 14.5),
            ("updated", 9.0),
            ("deleted", 0.6),
            ("index_entries", 66.0),
            // A whole page follows the first change after a checkpoint: 8 KiB each.
            ("wal_bytes", 22_000.0),
            ("wal_syncs", 6.0),
        ],
    ),
];

/// Measures and returns the report.
async fn costs(env: &TestEnv, more: &[&str]) -> Result<Value> {
    let config = env.folder.path().join("postrider.toml");
    std::fs::write(&config, env.config_text())?;
    let config = config.to_str().context("a path that is text")?;
    let args = ["--config", config, "--json", "bench", "--costs", "--instances", "fresh"];
    let load = ["--orders", "80", "--warm-up", "20", "--concurrency", "1", "--rate", "20"];
    let args = [&args[..], &load[..], &["--products", "1"][..], more].concat();
    let (code, said, errors) = postrider(&args).await?;
    ensure!(code == 0, "exit code {code}: {errors}");
    serde_json::from_str(&said).with_context(|| format!("no report: {said}{errors}"))
}

/// Fails with every figure that is over its budget.
fn check(report: &Value, budget: Budget) -> Result<()> {
    let mut over = Vec::new();
    for (part, figures) in budget {
        for (name, most) in *figures {
            let pointer = format!("/{part}/{name}");
            let cost = report.pointer(&pointer).and_then(Value::as_f64);
            let cost = cost.with_context(|| format!("no figure {pointer} in {report:#}"))?;
            if cost > *most {
                over.push(format!("{part} {name}: {cost:.2}, the budget is {most}"));
            }
        }
    }
    ensure!(over.is_empty(), "an order costs more than its budget:\n{}", over.join("\n"));
    Ok(())
}

#[tokio::test]
async fn an_order_stays_within_its_budget_on_the_embedded_store() -> Result<()> {
    let env = TestEnv::shipped("")?;
    check(&costs(&env, &[]).await?, EMBEDDED)
}

/// On a Postgres server of its own, because its write-ahead log is that of the whole server.
#[tokio::test]
async fn an_order_stays_within_its_budget_on_postgres_and_rabbitmq() -> Result<()> {
    let env = TestEnv::shipped("")?;
    let postgres = PrivatePostgres::start(env.folder.path())?;
    let servers = ["--store", &postgres.url(), "--broker", &amqp_url()];
    check(&costs(&env, &servers).await?, SERVERS)
}

#[test]
fn a_figure_over_its_budget_is_named() {
    let report = serde_json::json!({ "steps": { "commit": { "statements": 12.0 } } });
    check(&report, &[("steps/commit", &[("statements", 12.0)])]).expect("within the budget");
    let error = check(&report, &[("steps/commit", &[("statements", 11.0)])]).expect_err("over it");
    assert!(error.to_string().ends_with("steps/commit statements: 12.00, the budget is 11"));
}
