//! `postrider bench`: load on a host of its own, in a temporary folder, through the real API.
//!
//! Throughput and end-to-end times are what the store says (first order accepted to last order final), not what the client hoped.
//! Bounded: a fixed number of orders, loopback only, and a limit on the whole run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::app::App;
use crate::broker::rabbit::{Rabbit, RabbitOptions};
use crate::clock::SystemClock;
use crate::config::Config;
#[cfg(feature = "reference-stages")]
use crate::handler::sdk::SdkStage;
use crate::host::Host;
#[cfg(feature = "reference-stages")]
use crate::host::HostBuilder;
use crate::runtime::InstanceMode;
use crate::store::OrderFilter;
use crate::store::postgres::Scratch;

/// Measure a host started for the purpose.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Orders to post.
    #[arg(long, default_value_t = 20_000)]
    orders: u64,
    /// Orders posted before the measurement begins.
    #[arg(long, default_value_t = 1_000)]
    warm_up: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 32)]
    concurrency: u64,
    /// Orders per second offered (open loop); without it, as many as the host answers (closed loop).
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
pub(super) async fn run(config: Config, args: BenchArgs, json: bool) -> Result<ExitCode> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let name = format!("bench-{}", std::process::id());
    let scratch = match &args.store {
        Some(url) => Some(Scratch::create(url, &name.replace('-', "_")).await.context("--store")?),
        None => None,
    };
    let store_url = scratch.as_ref().map_or_else(|| format!("sqlite:{}/bench.db", folder.path().display()), Scratch::url);
    let config = adapt(config, &args, Place { name: &name, store_url, folder: folder.path() });
    let measured = host(&args, config).await;
    if let Some(url) = &args.broker {
        let options =
            RabbitOptions { url: url.clone(), namespace: name.clone(), host_name: name, clock: Arc::new(SystemClock), expiry_ms: 0 };
        let stages = ["payment", "inventory", "shipping", "notification"].map(Arc::from);
        Rabbit::delete_namespace(options, &stages).await.map_err(anyhow::Error::msg).context("--broker: the queues were left behind")?;
    }
    if let Some(scratch) = scratch {
        scratch.remove().await.context("--store: the schema was left behind")?;
    }
    let report = measured?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the host, measures it and stops it.
async fn host(args: &BenchArgs, config: Config) -> Result<Report> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let builder = Host::builder(config).listener(listener);
    #[cfg(feature = "reference-stages")]
    let builder = if matches!(args.instances, Instances::Native) { with_reference_stages(builder) } else { builder };
    let host = builder.build().await?;
    let app = host.app();
    ensure!(!app.services().pipeline.consuming().is_empty(), "no plugins are loaded: build them with `cargo xtask plugins`");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(host.run_until(async { _ = stopped.await }));
    let measured = tokio::time::timeout(Duration::from_secs(args.time_limit_s), measure(args, &url, &app)).await;
    drop(stop);
    serving.await??;
    measured.context("the time limit is over")?
}

#[cfg(feature = "reference-stages")]
fn with_reference_stages(builder: HostBuilder) -> HostBuilder {
    builder
        .stage(SdkStage::<payment::Payment>::default())
        .stage(SdkStage::<inventory::Inventory>::default())
        .stage(SdkStage::<shipping::Shipping>::default())
        .stage(SdkStage::<notification::Notification>::default())
}

/// Where a run keeps what it makes.
struct Place<'a> {
    name: &'a str,
    store_url: String,
    folder: &'a Path,
}

fn adapt(mut config: Config, args: &BenchArgs, place: Place<'_>) -> Config {
    place.name.clone_into(&mut config.namespace);
    config.store.url = place.store_url;
    config.broker.url = args.broker.clone().unwrap_or_else(|| "embedded:".to_owned());
    if let Some(plugins) = &args.plugins {
        config.plugins.dir.clone_from(plugins);
    }
    let mode = match args.instances {
        Instances::Fresh => InstanceMode::Fresh,
        Instances::Warm => InstanceMode::Warm,
        #[cfg(feature = "reference-stages")]
        Instances::Native => {
            // An empty folder: the native stages have the names.
            config.plugins.dir = place.folder.to_owned();
            InstanceMode::Fresh
        }
    };
    config.defaults.instances = mode;
    config.stages.values_mut().for_each(|stage| stage.instances = mode);
    config.stages.entry("inventory".into()).or_default().settings.insert("default_stock".into(), "1000000000".into());
    config
}

async fn measure(args: &BenchArgs, url: &str, app: &Arc<App>) -> Result<Report> {
    load(args, url, "warm", args.warm_up, None).await?;
    finished(app, "warm", args.warm_up).await?;
    let progress =
        ProgressBar::new(args.orders).with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {per_sec}, {eta} left")?);
    let post = load(args, url, "o", args.orders, Some(&progress)).await?;
    progress.set_message("waiting for the last order");
    let orders = finished(app, "o", args.orders).await?;
    progress.finish_and_clear();
    let first = orders.iter().map(|(created, _)| *created).min().unwrap_or(0);
    let last = orders.iter().map(|(_, updated)| *updated).max().unwrap_or(0);
    let mut end_to_end = Histogram::new(3)?;
    for (created, updated) in &orders {
        end_to_end.record((updated - created) * 1_000)?;
    }
    Ok(Report {
        orders: args.orders,
        orders_per_s: args.orders as f64 * 1_000.0 / (last - first).max(1) as f64,
        post_ms: Quantiles::of(&post),
        end_to_end_ms: Quantiles::of(&end_to_end),
    })
}

/// Posts `count` orders; the histogram holds microseconds from the time a request was due to its answer.
async fn load(args: &BenchArgs, url: &str, prefix: &str, count: u64, progress: Option<&ProgressBar>) -> Result<Histogram<u64>> {
    let next = Arc::new(AtomicU64::new(0));
    let client = reqwest::Client::builder().pool_max_idle_per_host(args.concurrency as usize).build()?;
    let began = Instant::now();
    let mut tasks: JoinSet<Result<Histogram<u64>>> = JoinSet::new();
    for _ in 0..args.concurrency {
        let (next, client, progress) = (Arc::clone(&next), client.clone(), progress.cloned());
        let (url, prefix, rate, products) = (format!("{url}/orders"), prefix.to_owned(), args.rate, args.products.max(1));
        tasks.spawn(async move {
            let mut histogram = Histogram::new(3)?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(histogram);
                }
                let mut due = Instant::now();
                if let Some(rate) = rate {
                    due = began + Duration::from_secs_f64(number as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                let sku = format!("sku-{}", number % products);
                let order = json!({ "order_id": format!("{prefix}-{number}"), "user_id": "bench", "items": [{ "sku": sku, "quantity": 1 }], "total": 20.0 });
                let response = client.post(&url).json(&order).send().await?;
                ensure!(response.status().is_success(), "POST /orders answered {}", response.status());
                histogram.record(due.elapsed().as_micros() as u64)?;
                if let Some(progress) = &progress {
                    progress.inc(1);
                }
            }
        });
    }
    let mut all = Histogram::new(3)?;
    while let Some(done) = tasks.join_next().await {
        all.add(done??)?;
    }
    Ok(all)
}

/// Waits until `count` orders with the prefix are ready; gives (created, updated) of each, in milliseconds.
async fn finished(app: &App, prefix: &str, count: u64) -> Result<Vec<(u64, u64)>> {
    let store = &app.services().store;
    let prefix = format!("{prefix}-");
    loop {
        // The newest orders are looked at first: a full count is made only when they are through.
        let newest = store.orders(OrderFilter { limit: 200, ..OrderFilter::default() }).await?;
        if newest.items.iter().all(|order| order.status == "ready") {
            let mut times = Vec::with_capacity(count as usize);
            let mut before = None;
            loop {
                let page = store.orders(OrderFilter { status: Some("ready".into()), before, limit: 200, ..OrderFilter::default() }).await?;
                times.extend(
                    page.items.iter().filter(|order| order.id.starts_with(&prefix)).map(|order| (order.created_at_ms, order.updated_at_ms)),
                );
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            if times.len() as u64 == count {
                return Ok(times);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn print(report: &Report) {
    println!("{} orders, {:.0} orders/s end to end", report.orders, report.orders_per_s);
    for (what, quantiles) in [("POST /orders", &report.post_ms), ("end to end", &report.end_to_end_ms)] {
        let Quantiles { p50, p95, p99, max } = quantiles;
        println!("{what:<14} p50 {p50:.1} ms   p95 {p95:.1} ms   p99 {p99:.1} ms   max {max:.1} ms");
    }
}
