//! Local hand-over behind RabbitMQ: what runs without a message, what is published all the same, and
//! what happens to messages that a host holds when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::harness::{Backend, Client, RunningHost, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::amqp_url;

fn order(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "u", "items": ["Book"], "total": 1 })
}

/// Messages that were handed over to the stages of a host.
async fn handed_over(client: &Client) -> Result<u64> {
    let stages = client.get("/stages").await?.1;
    let stages = stages["items"].as_array().context("stages")?.iter();
    Ok(stages.filter_map(|stage| stage["handed_over"].as_u64()).sum())
}

async fn wait_until_consuming(client: &Client, stages: &[&str]) -> Result<()> {
    for name in stages {
        eventually("the stage to be consumed", || async {
            Ok((client.stage_here(name).await?["consumption"] == "consuming").then_some(()))
        })
        .await?;
    }
    Ok(())
}

const SHIPPED: [&str; 4] = ["payment", "inventory", "shipping", "notification"];

/// One after another: what waits for long on a busy machine is not handed over.
async fn run_orders(client: &Client, count: usize) -> Result<()> {
    for number in 0..count {
        client.post("/orders", &order(&format!("o-{number}"))).await?;
        client.wait_for_status(&format!("o-{number}"), "ready").await?;
    }
    Ok(())
}

/// A queue of another program.
struct Subscriber {
    connection: Connection,
    channel: Channel,
    queue: String,
}

impl Subscriber {
    async fn bind(env: &TestEnv, pattern: &str) -> Result<Self> {
        let servers = env.servers.as_ref().context("servers")?;
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let queue = servers.receive_events(&channel, pattern).await?;
        Ok(Self { connection, channel, queue })
    }

    /// The routing keys of the first `count` messages.
    async fn receive(&self, count: usize) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        while keys.len() < count {
            let message = eventually("a message of the subscriber", || async {
                let options = BasicGetOptions::default();
                Ok(self.channel.basic_get(self.queue.as_str().into(), options).await?)
            })
            .await?;
            self.channel.basic_ack(message.delivery_tag, BasicAckOptions::default()).await?;
            keys.push(message.routing_key.to_string());
        }
        keys.sort();
        Ok(keys)
    }

    /// The messages that wait in the queue.
    async fn count(&self) -> Result<u32> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.queue.as_str().into();
        Ok(self.channel.queue_declare(queue, options, FieldTable::default()).await?.message_count())
    }

    async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_runs_all_stages_without_a_message() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    runs_all_stages_without_a_message(&env).await
}

/// The event has its data key only once it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_is_handed_over() -> Result<()> {
    let mut env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let file = env.folder.path().join("keys.toml");
    std::fs::write(
        &file,
        format!("primary = \"a\"\n[keys]\na = \"{}\"\n", STANDARD.encode([7; 32])),
    )?;
    env.toml = format!("{}[encryption]\nkey_file = \"{}\"\n", env.toml, file.display());
    runs_all_stages_without_a_message(&env).await
}

async fn runs_all_stages_without_a_message(env: &TestEnv) -> Result<()> {
    let host = env.start().await?;
    wait_until_consuming(&host.client, &SHIPPED).await?;
    let subscriber = Subscriber::bind(env, "#").await?;
    run_orders(&host.client, 5).await?;
    assert_eq!(handed_over(&host.client).await?, 4 * 5);
    assert_eq!(subscriber.count().await?, 0, "nothing is published");
    subscriber.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_program_subscribes_to_is_published() -> Result<()> {
    // The servers' configuration names no subscription.
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let mut config = env.config()?;
    config.broker.subscriptions = Some(vec!["payment.*".to_owned()]);
    let host = env.start_with(|builder| builder.config(config)).await?;
    wait_until_consuming(&host.client, &SHIPPED).await?;
    let subscriber = Subscriber::bind(&env, "payment.*").await?;
    run_orders(&host.client, 5).await?;
    assert_eq!(subscriber.receive(5).await?, ["payment.authorized"; 5]);
    assert_eq!(handed_over(&host.client).await?, 3 * 5);
    subscriber.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_published_unless_the_subscriptions_are_known() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    for id in ["unknown", "off"] {
        let mut config = env.config()?;
        if id == "unknown" {
            config.broker.subscriptions = None;
        } else {
            config.broker.local_handover = false;
        }
        let host = env.start_with(|builder| builder.config(config)).await?;
        wait_until_consuming(&host.client, &SHIPPED).await?;
        let subscriber = Subscriber::bind(&env, "order.created").await?;
        host.client.post("/orders", &order(id)).await?;
        host.client.wait_for_status(id, "ready").await?;
        assert_eq!(subscriber.receive(1).await?, ["order.created"]);
        assert_eq!(handed_over(&host.client).await?, 0);
        subscriber.close().await?;
        host.stop().await?;
    }
    Ok(())
}

/// Emits an event for the desk.
#[derive(Default)]
struct Clerk;

#[async_trait]
impl NativeStage for Clerk {
    fn describe(&self) -> Description {
        Description::new("clerk", "1.0.0", "Passes orders on")
            .consumes(["order.created"])
            .emits(["clerk.passed"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        Ok(vec![Emitted::json("clerk.passed", &json!({ "id": event.subject }))])
    }
}

/// Runs an event once it is permitted.
#[derive(Clone)]
struct Desk {
    permits: Arc<Semaphore>,
    done: Arc<AtomicUsize>,
}

impl Desk {
    fn new(permits: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(permits)), done: Arc::default() }
    }
}

#[async_trait]
impl NativeStage for Desk {
    fn describe(&self) -> Description {
        Description::new("desk", "1.0.0", "Waits").consumes(["clerk.passed"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.permits.acquire().await.expect("the permits").forget();
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(vec![])
    }
}

const ORDERS: usize = 20;

/// A host whose desk holds all orders, and runs none of them.
async fn host_with_held_orders(env: &TestEnv) -> Result<RunningHost> {
    let blocked = Desk::new(0);
    let host = env.start_with(|builder| builder.stage(Clerk).stage(blocked)).await?;
    wait_until_consuming(&host.client, &["clerk", "desk"]).await?;
    for number in 0..ORDERS {
        host.client.post("/orders", &order(&format!("o-{number}"))).await?;
    }
    eventually("the desk to hold the orders", || async {
        let desk = host.client.stage("desk").await?;
        Ok((desk["held"] == ORDERS && desk["handed_over"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    Ok(host)
}

async fn wait_until_done(desk: &Desk) -> Result<()> {
    eventually("the orders", || async {
        Ok((desk.done.load(Ordering::SeqCst) >= ORDERS).then_some(()))
    })
    .await
}

const SHORT_GRACE: &str = "shutdown.grace_ms = 200\n[stages.desk.limits]\ndeadline_ms = 600000\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stops_gives_back_what_it_did_not_run() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, SHORT_GRACE).await?;
    let host = host_with_held_orders(&env).await?;
    // The call that waits is cut off.
    let _ = host.stop().await;
    let desk = Desk::new(ORDERS * 2);
    let next = env.start_with(|builder| builder.stage(Clerk).stage(desk.clone())).await?;
    wait_until_done(&desk).await?;
    next.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_to_a_paused_stage() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, SHORT_GRACE).await?;
    let desk = Desk::new(ORDERS);
    let host = env.start_with(|builder| builder.stage(Clerk).stage(desk.clone())).await?;
    wait_until_consuming(&host.client, &["clerk", "desk"]).await?;
    host.client.post("/stages/desk/pause", &json!({})).await?;
    host.client.post("/orders", &order("paused")).await?;
    eventually("the order to wait for the desk", || async {
        Ok((host.client.stage("desk").await?["waiting"] == 1).then_some(()))
    })
    .await?;
    assert_eq!(host.client.stage("desk").await?["handed_over"], 0);
    host.client.post("/stages/desk/resume", &json!({})).await?;
    eventually("the order", || async { Ok((desk.done.load(Ordering::SeqCst) == 1).then_some(())) })
        .await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_flows_to_a_host_with_an_idle_stage() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, SHORT_GRACE).await?;
    let busy = host_with_held_orders(&env).await?;
    let desk = Desk::new(ORDERS * 2);
    let idle = env.start_with(|builder| builder.stage(Clerk).stage(desk.clone())).await?;
    wait_until_consuming(&idle.client, &["desk"]).await?;
    // All orders come to the busy host; once it sees that they wait, it hands over none.
    let number = AtomicUsize::new(0);
    eventually("an order on the idle host", || async {
        let id = format!("later-{}", number.fetch_add(1, Ordering::SeqCst));
        busy.client.post("/orders", &order(&id)).await?;
        Ok((desk.done.load(Ordering::SeqCst) > 0).then_some(()))
    })
    .await?;
    let _ = busy.stop().await;
    idle.stop().await
}
