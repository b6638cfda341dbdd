//! Orders whose next event no stage consumes: they wait, visibly, and continue when a stage that
//! consumes it appears. A deleted stage holds no order.

use anyhow::{Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    order_accepted_without_a_stage_is_processed_when_one_appears,
    stock_added_without_a_stage_is_counted_when_one_appears,
    order_does_not_wait_for_a_deleted_stage
];

async fn post(client: &Client, id: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 });
    ensure!(client.post("/orders", &order).await?.0 == StatusCode::ACCEPTED);
    Ok(())
}

/// Waits until these events wait for a stage, and no others.
async fn wait_for_unrouted(client: &Client, expected: &[(&str, u64)]) -> Result<()> {
    let expected: Vec<(String, u64)> =
        expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    eventually(&format!("{expected:?} to wait"), || async {
        let (status, ready) = client.get("/ready").await?;
        let waiting = ready["unrouted"].as_array().into_iter().flatten().map(|events: &Value| {
            (
                events["event_type"].as_str().unwrap_or_default().to_owned(),
                events["count"].as_u64().unwrap_or_default(),
            )
        });
        let waiting: Vec<_> = waiting.collect();
        Ok((waiting == expected && status == StatusCode::OK).then_some(()))
    })
    .await
}

async fn order_accepted_without_a_stage_is_processed_when_one_appears(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::empty_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for id in ["w-1", "w-2"] {
        post(&host.client, id).await?;
    }
    // An event of another program is only logged.
    host.client.post("/events/desk.note", &json!({})).await?;
    wait_for_unrouted(&host.client, &[("order.created", 2)]).await?;
    let metrics = host.client.text("/metrics").await?;
    ensure!(metrics.contains("postrider_unrouted_events{type=\"order.created\"} 2.0"), "{metrics}");
    host.stop().await?;

    // They wait across a restart, and then for the stage after the first one.
    env.add_plugin("payment", "payment")?;
    let host = env.start().await?;
    for id in ["w-1", "w-2"] {
        host.client.wait_for_status(id, "authorized").await?;
    }
    wait_for_unrouted(&host.client, &[("payment.authorized", 2)]).await?;
    for stage in ["inventory", "shipping", "notification"] {
        env.add_plugin(stage, stage)?;
    }
    for id in ["w-1", "w-2"] {
        host.client.wait_for_status(id, "ready").await?;
    }
    wait_for_unrouted(&host.client, &[]).await?;
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY subject_key, type HAVING \
                   count(*) > 1) twice";
    assert_eq!(env.query_count(doubled).await?, 0);
    host.stop().await
}

async fn stock_added_without_a_stage_is_counted_when_one_appears(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = env.start().await?;
    let added = host.client.post("/products", &json!({ "sku": "Lamp", "stock": 3 })).await?;
    ensure!(added.0.is_success(), "{}", added.1);
    wait_for_unrouted(&host.client, &[("product.stocked", 1)]).await?;
    env.add_plugin("inventory", "inventory")?;
    eventually("the stock", || async {
        let (status, product) = host.client.get("/products/Lamp").await?;
        Ok((status == StatusCode::OK && product.to_string().contains('3')).then_some(()))
    })
    .await?;
    host.stop().await
}

/// Consumes every order.
struct Watcher;

#[async_trait]
impl NativeStage for Watcher {
    fn describe(&self) -> Description {
        Description::new("watcher", "1.0.0", "Watches").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Ok(vec![])
    }
}

async fn order_does_not_wait_for_a_deleted_stage(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    env.start_with(|builder| builder.stage(Watcher)).await?.stop().await?;
    if let Some(servers) = &env.servers {
        // As if 30 seconds had passed: no host runs the stage.
        let gone = "UPDATE bindings SET seen_ms = 0";
        sqlx::query(gone).execute(&mut servers.connect().await?).await?;
    }
    let host = env.start().await?;
    post(&host.client, "d-1").await?;
    host.client.wait_for_status("d-1", "ready").await?;
    let open = "SELECT count(*) FROM deliveries WHERE stage = 'watcher' AND status = 'open'";
    assert_eq!(env.query_count(open).await?, 1, "the order waits for the stage");
    let (status, deleted) = host.client.delete("/stages/watcher").await?;
    assert_eq!((status, deleted["skipped"].as_u64()), (StatusCode::OK, Some(1)), "{deleted}");
    assert_eq!(env.query_count(open).await?, 0);
    eventually("all deliveries to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    host.stop().await
}
