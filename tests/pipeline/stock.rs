//! Stock is never oversold, however many orders compete for it, and each rejected order is refunded
//! once.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![thousand_orders_for_ten_lamps_reserve_exactly_ten];

async fn statuses(client: &Client) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for order in client.get_all("/orders?limit=200").await? {
        *counts.entry(order["status"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    Ok(counts)
}

async fn post_all(client: &Client) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..10 {
        let client = client.clone();
        tasks.spawn(async move {
            for index in 0..100 {
                let id = format!("o-{}", worker * 100 + index);
                let order = json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 1 }], "total": 5 });
                anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn thousand_orders_for_ten_lamps_reserve_exactly_ten(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, "[stages.inventory]\nlanes = 2\n").await?;
    let host = env.start().await?;
    host.client.stock("Lamp", 10).await?;
    post_all(&host.client).await?;
    let expected = BTreeMap::from([("ready".to_owned(), 10), ("refunded".to_owned(), 990)]);
    for _again in 0..2 {
        eventually("10 ready and 990 refunded", || async {
            Ok((statuses(&host.client).await? == expected).then_some(()))
        })
        .await?;
        assert_eq!(host.client.get("/products/Lamp").await?.1["available"], 0);
        post_all(&host.client).await?;
    }
    assert_eq!(statuses(&host.client).await?, expected);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_never_oversell_a_hot_product() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, "").await?;
    let (one, other) = (env.start().await?, env.start().await?);
    one.client.post("/products", &json!({ "sku": "Lamp", "stock": 10 })).await?;
    eventually("the stock", || async {
        Ok((other.client.get("/products/Lamp").await?.1["available"] == 10).then_some(()))
    })
    .await?;
    // Both hosts receive all orders: each is accepted once, and both hosts process them.
    tokio::try_join!(post_all(&one.client), post_all(&other.client))?;
    let expected = BTreeMap::from([("ready".to_owned(), 10), ("refunded".to_owned(), 990)]);
    eventually("10 ready and 990 refunded", || async {
        Ok((statuses(&one.client).await? == expected).then_some(()))
    })
    .await?;
    assert_eq!(other.client.get("/products/Lamp").await?.1["available"], 0);
    assert_eq!(
        env.query_count("SELECT count(*) FROM events WHERE type = 'order.created'").await?,
        1_000
    );
    assert_eq!(
        env.query_count("SELECT count(*) FROM events WHERE type = 'payment.refunded'").await?,
        990
    );
    one.stop().await?;
    other.stop().await
}

/// Every lane locks the same row: they must not hold all connections while they wait for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lanes_on_a_hot_product_share_few_connections() -> Result<()> {
    let toml = "store.connections = 2\n[stages.inventory]\nlanes = 16\n";
    let env = TestEnv::shipped_on(Backend::Servers, toml).await?;
    let (one, other) = (env.start().await?, env.start().await?);
    one.client.post("/products", &json!({ "sku": "Lamp", "stock": 10 })).await?;
    tokio::try_join!(post_all(&one.client), post_all(&other.client))?;
    let began = std::time::Instant::now();
    let expected = BTreeMap::from([("ready".to_owned(), 10), ("refunded".to_owned(), 990)]);
    eventually("10 ready and 990 refunded", || async {
        Ok((statuses(&one.client).await? == expected).then_some(()))
    })
    .await?;
    let took = began.elapsed();
    anyhow::ensure!(took < std::time::Duration::from_mins(1), "it took {took:?}");
    one.stop().await?;
    other.stop().await
}
