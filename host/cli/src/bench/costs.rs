//! `postrider bench --costs`: what an order costs, step by step, in numbers that hardly depend on the
//! speed of the machine.
//!
//! A second process posts the orders, so everything that this one counts is the host's. What the host
//! does without orders is measured for [`REST`] and subtracted in proportion to the time. The
//! write-ahead log of Postgres is that of the whole server: nothing else must write to it meanwhile.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;
use tokio::time::sleep;

use self::report::Measured;
pub(super) use self::report::{Report, print};
use self::snapshot::{Snapshot, Window};
pub(crate) use self::steps::{CostLayer, targets};
use super::BenchArgs;
use super::ephemeral_host::EphemeralHost;
use postrider::Config;
use postrider::internals::{
    PostgresSettings, PostgresStore, StatePlaces, TableWrites, WriteAheadLog,
};

mod process;
mod report;
mod snapshot;
mod steps;

/// The last messages are acknowledged, and their outbox rows deleted, within this time after the last
/// order is ready.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the host is measured without orders.
const REST: Duration = Duration::from_secs(3);
/// Longest time until the sessions of a stopped host have reported their writes.
const REPORTED: Duration = Duration::from_secs(5);
/// Pause between two looks at what they have reported.
const POLL: Duration = Duration::from_millis(200);

/// Measures a host in this process, and removes its data afterwards.
pub(super) async fn measure(config: Config, args: &BenchArgs) -> Result<Report> {
    let host = EphemeralHost::new(config, args)?;
    let measured = Box::pin(measure_host(&host, args)).await;
    host.remove().await?;
    Ok(Report::new(args, measured?))
}

async fn measure_host(host: &EphemeralHost<'_>, args: &BenchArgs) -> Result<Measured> {
    let places = StatePlaces::default();
    let postgres = host.postgres(&places);
    let log_before = log(postgres).await?;
    crate::allocations::start();
    let (run, rest) = Box::pin(host.run(async |url, _| {
        post(args, url, args.warm_up).await?;
        let run = observe(postgres, post(args, url, args.orders)).await?;
        let resting = async {
            sleep(REST).await;
            Ok(())
        };
        Ok((run, observe(postgres, resting).await?))
    }))
    .await?;
    let tables = match postgres {
        Some(settings) => tables(settings, args.warm_up + args.orders).await?,
        None => Vec::new(),
    };
    let log_total = log_before.zip(log(postgres).await?);
    Ok(Measured { run, rest, tables, log_total })
}

/// Measures the host while something happens.
async fn observe(
    postgres: Option<PostgresSettings<'_>>,
    work: impl Future<Output = Result<()>>,
) -> Result<Window> {
    let log_before = log(postgres).await?;
    let from = Snapshot::now()?;
    let began = Instant::now();
    work.await?;
    let lasted = began.elapsed();
    let to = Snapshot::now()?;
    let log = log_before.zip(log(postgres).await?);
    Ok(Window { lasted, from, to, log })
}

/// Posts orders from another process, and waits until the host has finished them.
async fn post(args: &BenchArgs, url: &str, orders: u64) -> Result<()> {
    if orders > 0 {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command.args(["bench", "--json", "--warm-up", "0", "--url", url]);
        let numbers = [
            ("--orders", orders),
            ("--concurrency", args.concurrency),
            ("--products", args.products),
        ];
        for (option, number) in numbers {
            command.arg(option).arg(number.to_string());
        }
        if let Some(rate) = args.rate {
            command.arg("--rate").arg(rate.to_string());
        }
        let status = command.stdout(Stdio::null()).kill_on_drop(true).status().await?;
        ensure!(status.success(), "the process that posts the orders failed: {status}");
    }
    sleep(SETTLE).await;
    Ok(())
}

async fn log(postgres: Option<PostgresSettings<'_>>) -> Result<Option<WriteAheadLog>> {
    let Some(settings) = postgres else { return Ok(None) };
    let log = PostgresStore::write_ahead_log(settings).await;
    log.map(Some).context("--store: cannot read the server's statistics")
}

/// The writes to each table, once all of `orders` orders are counted and no session adds to them.
async fn tables(settings: PostgresSettings<'_>, orders: u64) -> Result<Vec<TableWrites>> {
    let began = Instant::now();
    let mut before = Vec::new();
    loop {
        let now = PostgresStore::table_writes(settings)
            .await
            .context("--store: cannot read the server's statistics")?;
        let is_counted =
            |table: &TableWrites| table.table == "subjects" && table.inserted >= orders;
        let is_complete = now == before && now.iter().any(is_counted);
        if is_complete || began.elapsed() > REPORTED {
            return Ok(now);
        }
        before = now;
        sleep(POLL).await;
    }
}
