//! Posts orders, waits until they are final, and reads their times from the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use http::Uri;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::load_client::LoadClient;
use super::{BenchArgs, Quantiles, Report};
use crate::client::path_and_query;
use crate::progress;
use postrider::internals::Pipeline;

/// Warms up, then measures. `pipeline` adds the times of each stage if the host is in this process.
pub(super) async fn measure(
    args: &BenchArgs,
    hosts: &[String],
    pipeline: Option<&Pipeline>,
) -> Result<Report> {
    let run = uuid::Uuid::now_v7().simple().to_string();
    let client = LoadClient::new()?;
    let warm =
        Run { args, hosts, client: client.clone(), name: format!("{run}w"), count: args.warm_up };
    warm.post(None).await?;
    warm.finished().await?;
    let warmed_up = stage_times(pipeline);
    let progress = ProgressBar::new(args.orders)
        .with_style(progress::style("{bar:40} {pos}/{len} orders, {rate}, {eta} left")?);
    let measured = Run { args, hosts, client, name: run, count: args.orders };
    let post = measured.post(Some(&progress)).await?;
    let orders = measured.finished().await?;
    progress.finish_and_clear();
    let first = orders.iter().map(|order| order.created_at_ms).min().unwrap_or(0);
    let last = orders.iter().map(|order| order.updated_at_ms).max().unwrap_or(0);
    let mut end_to_end = Histogram::new(3)?;
    for order in &orders {
        end_to_end.record((order.updated_at_ms - order.created_at_ms) * 1_000)?;
    }
    Ok(Report {
        orders: args.orders,
        orders_per_s: args.orders as f64 * 1_000.0 / (last - first).max(1) as f64,
        post_ms: Quantiles::of(&post),
        end_to_end_ms: Quantiles::of(&end_to_end),
        stage_ms: since(warmed_up, stage_times(pipeline))?,
    })
}

/// Times of each stage so far, in microseconds.
fn stage_times(pipeline: Option<&Pipeline>) -> BTreeMap<String, Histogram<u64>> {
    let stages = pipeline.map(Pipeline::stages).unwrap_or_default();
    stages
        .into_iter()
        .map(|stage| (stage.name.to_string(), stage.metrics.deliveries.recorded().values))
        .collect()
}

fn since(
    before: BTreeMap<String, Histogram<u64>>,
    after: BTreeMap<String, Histogram<u64>>,
) -> Result<BTreeMap<String, Quantiles>> {
    let mut times = BTreeMap::new();
    for (stage, mut histogram) in after {
        if let Some(before) = before.get(&stage) {
            histogram.subtract(before)?;
        }
        times.insert(stage, Quantiles::of(&histogram));
    }
    Ok(times)
}

/// A batch of orders; their customer is the run's name, by which they are listed.
struct Run<'a> {
    args: &'a BenchArgs,
    hosts: &'a [String],
    client: LoadClient,
    name: String,
    count: u64,
}

/// An order in `GET /orders`.
#[derive(Deserialize)]
struct ListedOrder {
    status: String,
    created_at_ms: u64,
    updated_at_ms: u64,
}

/// A page of `GET /orders`.
#[derive(Deserialize)]
struct OrderPage {
    items: Vec<ListedOrder>,
    next: Option<i64>,
}

/// What the concurrent requests of a run share.
struct Sender {
    client: LoadClient,
    uris: Vec<Uri>,
    name: String,
    count: u64,
    products: u64,
    /// Makes each body longer; may be empty.
    note: String,
    /// Orders per second; `None` posts as fast as the host answers.
    rate: Option<f64>,
    began: Instant,
}

impl Sender {
    /// Posts one order when it is due; returns the time from then until the response.
    async fn post(&self, number: u64) -> Result<Duration> {
        let mut due = Instant::now();
        if let Some(rate) = self.rate {
            due = self.began + Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let uri = &self.uris[number as usize % self.uris.len()];
        self.client.post(uri, self.order(number)).await?;
        Ok(due.elapsed())
    }

    /// The body of an order.
    fn order(&self, number: u64) -> Vec<u8> {
        let mut order = json!({
            "order_id": format!("{}-{number}", self.name),
            "user_id": self.name,
            "items": [{ "sku": format!("sku-{}", number % self.products), "quantity": 1 }],
            "total": 20.0,
        });
        if !self.note.is_empty() {
            order["note"] = json!(self.note);
        }
        order.to_string().into_bytes()
    }
}

impl Run<'_> {
    /// Posts the orders. The histogram has the microseconds from when a request was due until its
    /// response, so that a slow host does not hide its own queueing (coordinated omission).
    async fn post(&self, progress: Option<&ProgressBar>) -> Result<Histogram<u64>> {
        let next = Arc::new(AtomicU64::new(0));
        let sender = Sender {
            client: self.client.clone(),
            uris: self
                .hosts
                .iter()
                .map(|host| format!("{host}/orders").parse())
                .collect::<Result<_, _>>()?,
            name: self.name.clone(),
            count: self.count,
            products: self.args.products.max(1),
            note: "x".repeat(self.args.body_bytes),
            rate: self.args.rate,
            began: Instant::now(),
        };
        let sender = Arc::new(sender);
        let mut tasks: JoinSet<Result<Histogram<u64>>> = JoinSet::new();
        for _ in 0..self.args.concurrency {
            let (sender, next, progress) =
                (Arc::clone(&sender), Arc::clone(&next), progress.cloned());
            tasks.spawn(async move {
                let mut histogram = Histogram::new(3)?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sender.count {
                        return Ok(histogram);
                    }
                    histogram.record(sender.post(number).await?.as_micros() as u64)?;
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

    /// Waits until all orders are ready.
    async fn finished(&self) -> Result<Vec<ListedOrder>> {
        loop {
            // Poll the newest page; read all pages only once the newest orders are ready.
            if self.page(None).await?.items.iter().all(|order| order.status == "ready") {
                let mut orders = Vec::with_capacity(self.count as usize);
                let mut cursor = None;
                loop {
                    let page = self.page(cursor).await?;
                    orders.extend(page.items.into_iter().filter(|order| order.status == "ready"));
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                if orders.len() as u64 == self.count {
                    return Ok(orders);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn page(&self, cursor: Option<i64>) -> Result<OrderPage> {
        let cursor = cursor.map(|cursor| cursor.to_string());
        let mut query = vec![("customer", self.name.as_str()), ("limit", "200")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = path_and_query(&["orders"], &query)?;
        self.client.get(&format!("{}{page}", self.hosts[0]).parse()?).await
    }
}
