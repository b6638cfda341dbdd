//! Orders posted during a fault, and the check afterwards that none was lost or duplicated.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::harness::{Client, TestEnv, eventually};

/// Configuration with enough stock for any load.
pub(crate) const AMPLE_STOCK: &str = "[stages.inventory.settings]\ndefault_stock = \"1000000\"\n";

/// Senders that post orders until stopped.
pub(crate) struct Load {
    accepted: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    senders: JoinSet<()>,
}

impl Load {
    /// Starts `lanes` senders. Each pauses between two orders and alternates between the hosts.
    pub(crate) fn start(clients: &[Client], lanes: usize, pause: Duration) -> Self {
        let mut load = Self {
            accepted: Arc::default(),
            stop: CancellationToken::new(),
            senders: JoinSet::new(),
        };
        for lane in 0..lanes {
            let sender = Sender {
                clients: clients.to_vec(),
                lane,
                pause,
                accepted: Arc::clone(&load.accepted),
                stop: load.stop.clone(),
            };
            load.senders.spawn(sender.run());
        }
        load
    }

    /// Number of accepted orders.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.lock().expect("the list").len()
    }

    /// Waits until `more` further orders are accepted.
    pub(crate) async fn wait_for_accepted(&self, more: usize) -> Result<()> {
        let target = self.accepted() + more;
        eventually("orders to flow", || async { Ok((self.accepted() >= target).then_some(())) })
            .await
    }

    /// Stops the senders. Returns the ids of all accepted orders.
    pub(crate) async fn stop(mut self) -> Result<Vec<String>> {
        self.stop.cancel();
        while let Some(ended) = self.senders.join_next().await {
            ended?;
        }
        Ok(std::mem::take(&mut *self.accepted.lock().expect("the list")))
    }
}

struct Sender {
    clients: Vec<Client>,
    lane: usize,
    pause: Duration,
    accepted: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Sender {
    async fn run(self) {
        let mut requests = self.lane;
        for number in 0.. {
            let id = format!("c-{}-{number}", self.lane);
            let order = json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 1 }], "total": 3 });
            // A sender does not know whether its order was accepted before the fault, so it repeats
            // the request until a host responds.
            loop {
                if self.stop.is_cancelled() {
                    return;
                }
                requests += 1;
                let client = &self.clients[requests % self.clients.len()];
                if client.post("/orders", &order).await.is_ok_and(|(status, _)| status.is_success())
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.accepted.lock().expect("the list").push(id);
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// Waits until every order is processed, then checks the database. Returns the number of orders.
pub(crate) async fn assert_nothing_lost_or_duplicated(
    env: &TestEnv,
    client: &Client,
    accepted: &[String],
) -> Result<i64> {
    let orders = assert_every_effect_happened_once(env, client, accepted).await?;
    assert_eq!(
        env.query_count("SELECT count(*) FROM attempts").await?,
        0,
        "a fault used up attempts"
    );
    Ok(orders)
}

/// The same, but calls may have timed out.
pub(crate) async fn assert_every_effect_happened_once(
    env: &TestEnv,
    client: &Client,
    accepted: &[String],
) -> Result<i64> {
    let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    let done = eventually("nothing left to do", || async {
        Ok((env.query_count(open).await? == 0).then_some(()))
    })
    .await;
    done.with_context(|| format!("after {} accepted orders", accepted.len()))?;
    let stored: HashSet<String> =
        env.query_texts("SELECT key FROM subjects").await?.into_iter().collect();
    let lost: Vec<&String> =
        accepted.iter().filter(|id| !stored.contains(&format!("order/{id}"))).collect();
    assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    let orders = i64::try_from(stored.len())?;
    for (what, query) in [
        ("orders that are ready", "SELECT count(*) FROM subjects WHERE status = 'ready'"),
        ("payments", "SELECT count(*) FROM events WHERE type = 'payment.authorized'"),
        ("reservations", "SELECT count(*) FROM events WHERE type = 'inventory.reserved'"),
        ("shipments", "SELECT count(*) FROM events WHERE type = 'shipping.ready'"),
        ("notifications", "SELECT count(*) FROM events WHERE type = 'notification.sent'"),
        ("deliveries, four an order", "SELECT count(*) / 4 FROM deliveries WHERE status = 'done'"),
    ] {
        assert_eq!(env.query_count(query).await?, orders, "{what}");
    }
    let other = "SELECT count(*) FROM attempts WHERE code <> 'trap:timeout'";
    assert_eq!(env.query_count(other).await?, 0, "a fault used up attempts");
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    let stock = client.get("/products/Lamp").await?.1["available"].as_i64();
    assert_eq!(stock, Some(1_000_000 - orders), "each order took one lamp");
    Ok(orders)
}

/// Posts orders at a fixed rate. Returns the rate (orders per second) at which they became ready.
pub(crate) async fn measure_ready_rate(
    client: &Client,
    every: Duration,
    order: impl Fn(&str) -> Value,
) -> Result<f64> {
    const ORDERS: u64 = 80;
    let mut ticks = tokio::time::interval(every);
    for id in 0..ORDERS {
        ticks.tick().await;
        let (status, answer) = client.post("/orders", &order(&format!("q-{id}"))).await?;
        ensure!(status.is_success(), "{status}: {answer}");
    }
    let (mut first, mut last) = (u64::MAX, 0);
    for id in 0..ORDERS {
        let (created, ready) = eventually("the order to be ready", || async {
            let (_, events) = client.get(&format!("/orders/q-{id}/events")).await?;
            let at = |kind: &str| {
                events["items"].as_array()?.iter().find(|event| event["type"] == kind)?["time_ms"]
                    .as_u64()
            };
            Ok(at("order.created").zip(at("shipping.ready")))
        })
        .await?;
        (first, last) = (first.min(created), last.max(ready));
    }
    Ok(ORDERS as f64 * 1_000.0 / (last - first) as f64)
}

/// Asserts that the healthy stages keep nine tenths of their rate beside a hostile one. Takes the
/// best of three pairs, because machines are noisy: the cost of the sandbox shows in each pair, the
/// cost of an unrelated process does not.
pub(crate) async fn assert_rate_is_kept(
    what: &str,
    alone: impl AsyncFn() -> Result<f64>,
    beside: impl AsyncFn() -> Result<f64>,
) -> Result<()> {
    let mut best: f64 = 0.0;
    for _pair in 0..3 {
        let (alone, beside) = (alone().await?, beside().await?);
        println!("{what}: {beside:.1} orders/s, {alone:.1} without");
        best = best.max(beside / alone);
        if best >= 0.9 {
            break;
        }
    }
    assert!(
        best >= 0.9,
        "beside `{what}` the healthy stages kept {:.0} % of their rate",
        best * 100.0
    );
    Ok(())
}
