//! `postrider bench`: posts orders to an ephemeral host, or to running ones, through the HTTP API.
//!
//! Throughput and end-to-end latency come from the timestamps in the store (from the first order
//! accepted to the last one final), not from the client. A run is bounded by its number of orders
//! and by a time limit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client;
use crate::output::Output;
use crate::scope::Scope;
use postrider::Config;

mod load;
mod load_client;
mod ephemeral_host;
pub(crate) mod costs;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Number of orders to post.
    #[arg(long, default_value_t = 20_000)]
    orders: u64,
    /// Number of orders to post before measuring.
    #[arg(long, default_value_t = 1_000)]
    warm_up: u64,
    /// Number of concurrent requests.
    #[arg(long, default_value_t = 32)]
    concurrency: u64,
    /// Post this many orders per second (open loop); by default, post as fast as the host answers
    /// (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// How stages run: a fresh instance per message, warm instances, or native without a sandbox.
    #[arg(long, value_enum, default_value_t = Instances::Fresh)]
    instances: Instances,
    /// Postgres server to measure, in a temporary schema [default: a temporary SQLite file].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// RabbitMQ server to measure, in a temporary namespace [default: the embedded broker].
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Send every event through RabbitMQ (`broker.local_handover` is false).
    #[arg(long, conflicts_with = "url")]
    no_handover: bool,
    /// Measure running hosts instead, round-robin; repeat the option for several hosts.
    #[arg(long, value_parser = crate::client::base_url, conflicts_with_all = ["store", "broker", "plugins"])]
    url: Vec<String>,
    /// Number of distinct products ordered; 1 makes every order contend for one key.
    #[arg(long, default_value_t = 100)]
    products: u64,
    /// Make the body of each order longer by about this many bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    body_bytes: usize,
    /// Print what an order costs instead: allocations, statements, rows, messages and more, by step.
    #[arg(long, conflicts_with = "url")]
    pub(crate) costs: bool,
    /// Plugins folder [default: plugins.dir of the configuration].
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// Fail if the run takes longer than this many seconds.
    #[arg(long, default_value_t = 300)]
    time_limit_s: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Instances {
    Fresh,
    Warm,
    #[cfg(feature = "reference-stages")]
    Native,
}

/// The result of a run.
#[derive(Debug, Serialize)]
struct Report {
    orders: u64,
    orders_per_s: f64,
    post_ms: Quantiles,
    end_to_end_ms: Quantiles,
    /// Time from receipt to acknowledgement of a message, by stage; only for an ephemeral host.
    stage_ms: BTreeMap<String, Quantiles>,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    /// From a histogram of microseconds.
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: histogram.max() as f64 / 1_000.0 }
    }
}

/// Runs the benchmark and prints the report.
pub(crate) async fn run(scope: &Scope, args: BenchArgs, output: Output) -> Result<ExitCode> {
    if args.costs {
        let config = scope.one(Config::load(scope.config.as_deref())?)?;
        output.print(&Box::pin(costs::measure(config, &args)).await?, costs::print)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = if args.url.is_empty() {
        let config = scope.one(Config::load(scope.config.as_deref())?)?;
        ephemeral_host::measure(config, &args).await?
    } else {
        let path = client::namespace_path();
        let hosts: Vec<String> = args.url.iter().map(|url| format!("{url}{path}")).collect();
        load::measure(&args, &hosts, None).await?
    };
    output.print(&report, print)?;
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    outln!("{} orders, {:.0} orders/s end to end", report.orders, report.orders_per_s);
    let stages = report.stage_ms.iter().map(|(stage, quantiles)| (stage.as_str(), quantiles));
    for (what, quantiles) in
        [("POST /orders", &report.post_ms), ("end to end", &report.end_to_end_ms)]
            .into_iter()
            .chain(stages)
    {
        let Quantiles { p50, p95, p99, max } = quantiles;
        outln!("{what:<14} p50 {p50:.1} ms   p95 {p95:.1} ms   p99 {p99:.1} ms   max {max:.1} ms");
    }
}
