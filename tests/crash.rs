//! `kill -9` at random moments under load: every accepted order ends in exactly one final status, every effect once.
//!
//! `POSTRIDER_CRASHES` sets how many kills (default 6; the acceptance run uses 50).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use serde_json::json;

use crate::harness::{Backend, Client, Site, eventually, on_both_back_ends};
use crate::process::{Process, free_port};

on_both_back_ends![kill_nine_loses_nothing_and_doubles_nothing];

/// Posts orders one after another for as long as the process lives; notes those that were accepted.
async fn load(client: Client, lane: usize, accepted: Arc<Mutex<Vec<String>>>, stop: tokio_util::sync::CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let id = format!("c-{lane}-{number}");
        let order = json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 1 }], "total": 3 });
        // The same order is posted until somebody answers: a sender does not know whether it was accepted before the crash.
        while !client.post("/orders", &order).await.is_ok_and(|(status, _)| status.is_success()) {
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        accepted.lock().expect("the list").push(id);
    }
}

async fn kill_nine_loses_nothing_and_doubles_nothing(backend: Backend) -> Result<()> {
    let crashes: u32 = std::env::var("POSTRIDER_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let site = Site::shipped_on(backend, "[stages.inventory.settings]\ndefault_stock = \"1000000\"\n").await?;
    let port = free_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let (accepted, stop) = (Arc::new(Mutex::new(Vec::new())), tokio_util::sync::CancellationToken::new());
    let mut process = Process::start(&site, port, None)?;
    process.ready(&client, &site).await?;
    let mut loads = tokio::task::JoinSet::new();
    for lane in 0..8 {
        loads.spawn(load(client.clone(), lane, Arc::clone(&accepted), stop.clone()));
    }
    for _ in 0..crashes {
        let before = accepted.lock().expect("the list").len();
        let more = rand::rng().random_range(1..200);
        eventually("orders to flow", || async { Ok((accepted.lock().expect("the list").len() >= before + more).then_some(())) }).await?;
        process.kill()?;
        process = Process::start(&site, port, None)?;
        process.ready(&client, &site).await?;
    }
    stop.cancel();
    while let Some(ended) = loads.join_next().await {
        ended?;
    }
    let ids = std::mem::take(&mut *accepted.lock().expect("the list"));
    for id in &ids {
        client.order_in(id, "ready").await.with_context(|| format!("of {} accepted orders", ids.len()))?;
    }
    eventually("nothing left to do", || async {
        Ok((site.count("SELECT count(*) FROM deliveries WHERE status = 'open'").await? == 0).then_some(()))
    })
    .await?;
    let orders = site.count("SELECT count(*) FROM orders").await?;
    for (what, query) in [
        ("orders that are ready", "SELECT count(*) FROM orders WHERE status = 'ready'"),
        ("payments", "SELECT count(*) FROM events WHERE type = 'payment.authorized'"),
        ("reservations", "SELECT count(*) FROM events WHERE type = 'inventory.reserved'"),
        ("shipments", "SELECT count(*) FROM events WHERE type = 'shipping.ready'"),
        ("notifications", "SELECT count(*) FROM events WHERE type = 'notification.sent'"),
        ("deliveries, four an order", "SELECT count(*) / 4 FROM deliveries WHERE status = 'done'"),
    ] {
        assert_eq!(site.count(query).await?, orders, "{what}");
    }
    assert_eq!(site.count("SELECT count(*) FROM dead_letters").await?, 0);
    let stock = client.get("/products/Lamp").await?.1["available"].as_i64();
    assert_eq!(stock, Some(1_000_000 - orders), "each order took one lamp");
    println!("{crashes} kills, {orders} orders, nothing lost, nothing doubled");
    process.kill()
}
