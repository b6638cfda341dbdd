//! `postrider bench`: load on a host of its own, in a temporary folder, through the real API.
//!
//! Throughput and end-to-end times are what the store says (first order accepted to last order
//! final), not what the client hoped. Bounded: a fixed number of orders, loopback only, and a limit
//! on the whole run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;

use postrider::config::Config;

mod load;
mod ephemeral_host;

/// Measure a host started for the purpose.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Orders to post.
    #[arg(long, default_value_t = 20_000)]
    orders: u64,
    /// Orders posted before the measurement begins.
    #[arg(long, default_value_t = 1_000)]
    warm_up: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 32)]
    concurrency: u64,
    /// Orders per second offered (open loop); without it, as many as the host answers (closed
    /// loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Fresh instance per message, warm ones, or the same stages without a sandbox.
    #[arg(long, value_enum, default_value_t = Instances::Fresh)]
    instances: Instances,
    /// Store to measure, in a schema of its own: `postgres://…`; default: a file of its own.
    #[arg(long)]
    store: Option<String>,
    /// Broker to measure, in a namespace of its own: `amqp://…`; default: embedded.
    #[arg(long)]
    broker: Option<String>,
    /// Measure hosts that run already instead, in turn: `http://…`, several times for several
    /// hosts.
    #[arg(long, conflicts_with_all = ["store", "broker", "plugins"])]
    url: Vec<String>,
    /// Different products ordered; 1 makes one hot key.
    #[arg(long, default_value_t = 100)]
    products: u64,
    /// Plugins folder; default: the configuration's.
    #[arg(long)]
    plugins: Option<PathBuf>,
    /// The run fails when it is not over after so many seconds.
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

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    orders: u64,
    orders_per_s: f64,
    post_ms: Quantiles,
    end_to_end_ms: Quantiles,
    /// From the receipt of a message to its acknowledgement, by stage; of a host of the bench's
    /// own.
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
    /// Of a histogram of microseconds.
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: histogram.max() as f64 / 1_000.0 }
    }
}

/// Runs the measurement and prints the report.
pub(crate) async fn run(config: Config, args: BenchArgs, json: bool) -> Result<ExitCode> {
    let report = if args.url.is_empty() {
        ephemeral_host::measure(config, &args).await?
    } else {
        load::measure(&args, &args.url, None).await?
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    println!("{} orders, {:.0} orders/s end to end", report.orders, report.orders_per_s);
    let stages = report.stage_ms.iter().map(|(stage, quantiles)| (stage.as_str(), quantiles));
    for (what, quantiles) in
        [("POST /orders", &report.post_ms), ("end to end", &report.end_to_end_ms)]
            .into_iter()
            .chain(stages)
    {
        let Quantiles { p50, p95, p99, max } = quantiles;
        println!(
            "{what:<14} p50 {p50:.1} ms   p95 {p95:.1} ms   p99 {p99:.1} ms   max {max:.1} ms"
        );
    }
}
