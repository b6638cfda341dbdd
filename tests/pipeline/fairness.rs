//! A stage shares its capacity: the backlog of one customer, or of one kind of subjects, does not hold
//! up another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use futures::StreamExt as _;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};

on_both_back_ends![
    a_few_orders_pass_the_backlog_of_another_customer,
    a_few_orders_pass_a_backlog_of_documents,
    a_few_orders_pass_a_backlog_that_no_host_holds,
    one_customer_is_served_in_order,
];

const KINDS: &str = "[subjects.document]\ncustomer_field = \"author\"\n";

/// Orders or documents of the customer that floods the stage.
const FLOOD: usize = 300;

/// Runs each event once the test permits it, and notes which.
#[derive(Clone)]
struct Desk {
    permits: Arc<Semaphore>,
    /// Calls that wait for a permit, or had one.
    begun: Arc<AtomicUsize>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), begun: Arc::default(), calls: Arc::default() }
    }
}

impl Desk {
    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("the calls").clone()
    }

    /// Permits so many more calls, and returns the subjects of all calls once there are `total`.
    async fn permit(&self, more: usize, total: usize) -> Result<Vec<String>> {
        self.permits.add_permits(more);
        eventually("the permitted calls", || async {
            Ok(Some(self.calls()).filter(|made| made.len() >= total))
        })
        .await
    }
}

#[async_trait]
impl NativeStage for Desk {
    fn describe(&self) -> Description {
        Description::new("desk", "1.0.0", "Looks at what was created")
            .consumes(["order.created", "document.created"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.expect("the permits").forget();
        self.calls.lock().expect("the calls").push(event.subject.clone());
        Ok(vec![])
    }
}

/// A host that holds up to 512 messages (with RabbitMQ, after it has seen that they are small), and whose
/// stage is busy with one order. What the host hands over to itself, RabbitMQ's consumer does not see.
async fn warm_host_on(backend: Backend) -> Result<(TestEnv, RunningHost, Desk)> {
    let (env, host, desk) = host_on(backend, "broker.local_handover = false\n").await?;
    desk.permits.add_permits(FLOOD);
    submit(&host.client, (0..FLOOD).map(|number| order("warm", number)).collect()).await?;
    desk.permit(0, FLOOD).await?;
    desk.calls.lock().expect("the calls").clear();
    submit(&host.client, vec![order("first", 0)]).await?;
    eventually("the stage to be busy", || async {
        Ok((desk.begun.load(Ordering::SeqCst) == FLOOD + 1).then_some(()))
    })
    .await?;
    Ok((env, host, desk))
}

async fn host_on(backend: Backend, toml: &str) -> Result<(TestEnv, RunningHost, Desk)> {
    let toml = format!("{toml}[stages.desk.limits]\ndeadline_ms = 600000\n{KINDS}");
    let env = TestEnv::empty_on(backend, &toml).await?;
    let desk = Desk::default();
    let host = env.start_with(|builder| builder.stage(desk.clone())).await?;
    Ok((env, host, desk))
}

fn order(customer: &str, number: usize) -> (&'static str, Value) {
    let id = format!("{customer}-{number}");
    ("/orders", json!({ "order_id": id, "user_id": customer, "items": ["Book"], "total": 1 }))
}

fn document(author: &str, number: usize) -> (&'static str, Value) {
    ("/documents", json!({ "document_id": format!("d-{author}-{number}"), "author": author }))
}

async fn submit(client: &Client, subjects: Vec<(&'static str, Value)>) -> Result<()> {
    let mut answers = futures::stream::iter(subjects)
        .map(|(path, body)| async move { client.post(path, &body).await })
        .buffered(16);
    while let Some(answer) = answers.next().await {
        let (status, body) = answer?;
        ensure!(status.is_success(), "{body}");
    }
    Ok(())
}

/// Waits until the host holds so many messages of the stage: they are in the queues of its lanes.
async fn wait_until_held(host: &RunningHost, count: usize) -> Result<()> {
    eventually("the host to hold the messages", || async {
        Ok((host.client.stage("desk").await?["held"] == count).then_some(()))
    })
    .await
}

/// Waits until everything that was submitted is in the stage's queue, or held by the host.
async fn wait_until_published(env: &TestEnv) -> Result<()> {
    eventually("the outbox to be empty", || async {
        Ok((env.query_count("SELECT count(*) FROM outbox").await? == 0).then_some(()))
    })
    .await
}

fn of<'a>(calls: &'a [String], customer: &str) -> Vec<&'a str> {
    calls.iter().map(String::as_str).filter(|id| id.starts_with(customer)).collect()
}

async fn a_few_orders_pass_the_backlog_of_another_customer(backend: Backend) -> Result<()> {
    let (_env, host, desk) = warm_host_on(backend).await?;
    submit(&host.client, (0..FLOOD).map(|number| order("x", number)).collect()).await?;
    wait_until_held(&host, FLOOD + 1).await?;
    submit(&host.client, (0..5).map(|number| order("y", number)).collect()).await?;
    wait_until_held(&host, FLOOD + 6).await?;
    let calls = desk.permit(25, 25).await?;
    assert_eq!(of(&calls, "y").len(), 5, "they wait for another customer: {calls:?}");
    // Everything else follows, once.
    let mut calls = desk.permit(FLOOD - 19, FLOOD + 6).await?;
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), FLOOD + 6);
    host.stop().await
}

async fn a_few_orders_pass_a_backlog_of_documents(backend: Backend) -> Result<()> {
    let (_env, host, desk) = warm_host_on(backend).await?;
    // Each of them has another author.
    let flood = (0..FLOOD).map(|number| document(&number.to_string(), number)).collect();
    submit(&host.client, flood).await?;
    wait_until_held(&host, FLOOD + 1).await?;
    submit(&host.client, (0..5).map(|number| order("y", number)).collect()).await?;
    wait_until_held(&host, FLOOD + 6).await?;
    let calls = desk.permit(25, 25).await?;
    assert_eq!(of(&calls, "y").len(), 5, "they wait for another kind: {calls:?}");
    assert_eq!(of(&calls, "d-").len(), 19);
    host.stop().await
}

/// The stage holds 8 messages, and the embedded queue 40; the rest waits in the queue of the broker, or
/// in the store only.
async fn a_few_orders_pass_a_backlog_that_no_host_holds(backend: Backend) -> Result<()> {
    let toml = "broker.queue_capacity = 40\n[stages.desk]\nprefetch = 8\nrate_per_s = 5\n";
    let (env, host, desk) = host_on(backend, toml).await?;
    desk.permits.add_permits(2 * FLOOD);
    submit(&host.client, (0..FLOOD).map(|number| order("x", number)).collect()).await?;
    wait_until_published(&env).await?;
    submit(&host.client, (0..5).map(|number| order("y", number)).collect()).await?;
    let calls = eventually("the orders of the other customer", || async {
        Ok(Some(desk.calls()).filter(|calls| of(calls, "y").len() == 5))
    })
    .await?;
    assert!(of(&calls, "x").len() < FLOOD / 2, "{} of the others came first", calls.len());
    host.stop().await
}

async fn one_customer_is_served_in_order(backend: Backend) -> Result<()> {
    let (env, host, desk) = host_on(backend, "").await?;
    for number in 0..40 {
        submit(&host.client, vec![order("x", number)]).await?;
        // Different subjects are published in any order.
        wait_until_published(&env).await?;
    }
    let calls = desk.permit(40, 40).await?;
    let expected: Vec<String> = (0..40).map(|number| format!("x-{number}")).collect();
    assert_eq!(calls, expected);
    host.stop().await
}
