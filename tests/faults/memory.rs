//! Memory while clients send more than the pipeline processes: what waits is bounded in bytes. So are
//! messages of other programs that are larger than the host accepts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::HostProcess;
use crate::support::servers::amqp_url;

/// What clients post at the same time, and how many of them.
struct Flood {
    name: &'static str,
    clients: usize,
    orders: usize,
    order: fn(usize) -> Value,
}

/// Orders of nearly the largest size: together more than the bound on memory.
const LARGE: Flood = Flood { name: "large", clients: 400, orders: 1_000, order: large_order };
/// A small text that becomes large once it is parsed.
const MANY_VALUES: Flood =
    Flood { name: "many values", clients: 40, orders: 80, order: many_values };
/// Bound on the resident set: what an idle host has, and every queue full.
const MEMORY_MAX: u64 = 1 << 30;
/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(20);

fn large_order(id: usize) -> Value {
    json!({ "order_id": format!("large-{id}"), "items": ["Book"], "total": 1, "note": "x".repeat(950_000) })
}

fn many_values(id: usize) -> Value {
    json!({ "order_id": format!("many-{id}"), "items": ["Book"], "total": 1, "note": vec![0; 99_000] })
}

/// Posts an order until it is accepted; returns how often it was refused.
async fn post(client: &Client, order: &Value) -> Result<usize> {
    for refused in 0.. {
        match client.post("/orders", order).await? {
            (StatusCode::ACCEPTED, _) => return Ok(refused),
            (StatusCode::SERVICE_UNAVAILABLE, problem) => {
                let detail = problem["detail"].as_str().unwrap_or_default();
                ensure!(detail.contains("http.bodies_max_bytes"), "{problem}");
                // As the answer asks for, but sooner.
                tokio::time::sleep(LOOK).await;
            }
            (status, problem) => anyhow::bail!("{status}: {problem}"),
        }
    }
    unreachable!("the loop ends only by an answer")
}

/// Looks at the memory of a process until it is told to stop.
async fn watch(host: &HostProcess, stop: &AtomicBool) -> Result<u64> {
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(host.memory_bytes()?);
        tokio::time::sleep(LOOK).await;
    }
    Ok(most)
}

impl Flood {
    /// Posts all orders; returns how many answers were refusals.
    async fn post(&self, client: &Client) -> Result<usize> {
        let Self { name, orders, order, .. } = *self;
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let (next, client) = (Arc::clone(&next), client.clone());
            clients.spawn(async move {
                let mut refused = 0;
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id >= orders {
                        return anyhow::Ok(refused);
                    }
                    refused += post(&client, &order(id)).await?;
                }
            });
        }
        let mut refused = 0;
        while let Some(done) = clients.join_next().await {
            refused += done??;
        }
        println!("{name}: {orders} orders, refused {refused} times");
        Ok(refused)
    }
}

async fn what_waits_is_bounded(backend: Backend) -> Result<()> {
    // On a busy machine, nothing times out.
    let toml = format!("http.request_timeout_ms = 120000\n{AMPLE_STOCK}");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let (host, client) = HostProcess::start_ready(&env).await?;
    let idle = host.memory_bytes()?;
    let (status, answer) = client.post("/stages/payment/pause", &json!({})).await?;
    ensure!(status.is_success(), "{answer}");
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut refused = 0;
    let load = async {
        for flood in [MANY_VALUES, LARGE] {
            refused += u64::from(flood.post(&client).await? > 0);
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let watching = async {
        most.store(watch(&host, &stop).await?, Ordering::Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(load, watching)?;
    let most = most.load(Ordering::Relaxed);
    println!("{backend:?}: {} MB idle, {} MB at most", idle >> 20, most >> 20);
    ensure!(most <= MEMORY_MAX, "{most} bytes of memory");
    ensure!(refused == 2, "the clients did not need more than there may be");
    let all = (LARGE.orders + MANY_VALUES.orders) as i64;
    assert_eq!(env.query_count("SELECT count(*) FROM subjects").await?, all);
    // They are processed as usual.
    let (status, answer) = client.post("/stages/payment/resume", &json!({})).await?;
    ensure!(status.is_success(), "{answer}");
    eventually("the first orders", || async {
        let ready = "SELECT count(*) FROM subjects WHERE status = 'ready'";
        Ok((env.query_count(ready).await? >= 20).then_some(()))
    })
    .await?;
    let after = host.memory_bytes()?;
    println!("{backend:?}: {} MB while they are processed", after >> 20);
    ensure!(after <= MEMORY_MAX, "{after} bytes of memory");
    host.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures memory: `cargo xtask test` runs it alone, after the others"]
async fn what_waits_is_bounded_in_bytes_embedded() -> Result<()> {
    what_waits_is_bounded(Backend::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures memory: `cargo xtask test` runs it alone, after the others"]
async fn what_waits_is_bounded_in_bytes_on_servers() -> Result<()> {
    what_waits_is_bounded(Backend::Servers).await
}

/// Publishes messages of this size as another program does.
async fn publish(env: &TestEnv, messages: usize, bytes: usize) -> Result<()> {
    let exchange = env.servers.as_ref().context("servers")?.exchange();
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for id in 0..messages {
        let event = json!({ "specversion": "1.0", "id": format!("large-{id}"), "source": "/desk",
            "type": "order.created", "subject": id.to_string(), "data": "x".repeat(bytes) });
        let properties =
            BasicProperties::default().with_content_type("application/cloudevents+json".into());
        let (to, options) = (exchange.as_str().into(), BasicPublishOptions::default());
        let body = event.to_string();
        channel
            .basic_publish(to, "order.created".into(), options, body.as_bytes(), properties)
            .await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures memory: `cargo xtask test` runs it alone, after the others"]
async fn large_messages_of_other_programs_are_bounded_in_bytes() -> Result<()> {
    // Together more than the bound on memory.
    const MESSAGES: usize = 60;
    const BYTES: usize = 20_000_000;
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let (host, client) = HostProcess::start_ready(&env).await?;
    client.post("/stages/payment/pause", &json!({})).await?;
    publish(&env, MESSAGES, BYTES).await?;
    client.post("/stages/payment/resume", &json!({})).await?;
    let dead_letters = eventually("a dead letter for each", || async {
        let items = client.get_all("/dead-letters?limit=200").await?;
        Ok((items.len() == MESSAGES).then_some(items))
    })
    .await?;
    for one in dead_letters {
        let why = one["message"].as_str().unwrap_or_default();
        assert!(one["code"] == "unreadable" && why.contains("http.body_max_bytes"), "{one}");
    }
    let most = host.peak_memory_bytes()?;
    println!("{} MB at most", most >> 20);
    ensure!(most <= MEMORY_MAX, "{most} bytes of memory");
    let order = json!({ "order_id": "o", "items": ["Book"], "total": 1 });
    client.post("/orders", &order).await?;
    client.wait_for_status("o", "ready").await?;
    host.kill()
}
