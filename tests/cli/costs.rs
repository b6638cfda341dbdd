//! The costs of an order, as `postrider bench --costs` measures them, stay within a budget.
//!
//! The orders come one after another, with time in between, so an order shares no commit with another
//! one, and its costs hardly depend on the machine. The time on the processor and the context switches
//! do, so they have no budget; nor has `background`, which is what happens outside of the steps.
//!
//! A change that costs more fails here. If the cost is justified, raise the budget in the same commit
//! and say why; a change that costs less lowers it.

use anyhow::{Context as _, Result, ensure};
use postrider_tests::private_servers::PrivatePostgres;
use serde_json::Value;

use crate::support::harness::TestEnv;
use crate::support::process::postrider;
use crate::support::servers::amqp_url;

/// The most that an order may cost: where in the report, the figures and their budgets.
type Budget = &'static [(&'static str, &'static [(&'static str, f64)])];

const EMBEDDED: Budget = &[];

const SERVERS: Budget = &[];

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
