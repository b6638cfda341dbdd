//! Stages whose state is in schemas of their own: the shipped pipeline does the same as without them,
//! also after its state was moved, across kills, and when orders are deleted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use postrider::{Clock as _, ManualClock, SystemClock};
use serde_json::json;

use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::load::{AMPLE_STOCK, Load, assert_every_effect_happened_once};
use crate::support::process::{HostProcess, unused_port};

const PLACES: &str = "[stages.payment.store]\nschema = \"money\"\n\
                      [stages.inventory.store]\nschema = \"warehouse\"\n";
/// Keys of these stages outside of their schemas.
const ELSEWHERE: &str = "SELECT count(*) FROM state WHERE stage IN ('payment', 'inventory')";
/// Keys of orders in their schemas.
const OF_ORDERS: &str = "SELECT (SELECT count(*) FROM money.state WHERE key LIKE 'order/%') + (SELECT \
                         count(*) FROM warehouse.state WHERE key LIKE 'order/%')";

async fn ready(client: &Client, id: &str) -> Result<()> {
    let order =
        json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 2 }] });
    ensure!(client.post("/orders", &order).await?.0.is_success());
    client.wait_for_status(id, "ready").await?;
    Ok(())
}

async fn cancelled(client: &Client, id: &str) -> Result<()> {
    ensure!(client.post(&format!("/orders/{id}/cancel"), &json!({})).await?.0.is_success());
    let order = client.wait_for_status(id, "cancelled").await?;
    // Both stages have found what they did before.
    for event_type in ["payment.refunded", "inventory.released"] {
        let (_, events) = client.get(&format!("/orders/{id}/events?limit=200")).await?;
        let found = events["items"].as_array().into_iter().flatten();
        ensure!(found.filter(|event| event["type"] == event_type).count() == 1, "{order}");
    }
    Ok(())
}

async fn lamps(client: &Client) -> Result<Option<i64>> {
    Ok(client.get("/products/Lamp").await?.1["available"].as_i64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_pipeline_keeps_state_in_schemas_of_its_own() -> Result<()> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let stock =
        "retention.interval_ms = 20\n[stages.inventory.settings]\ndefault_stock = \"1000\"\n";
    let mut env = TestEnv::shipped_on(Backend::Servers, stock).await?;
    let host = env.start().await?;
    ready(&host.client, "moved").await?;
    ready(&host.client, "kept").await?;
    host.stop().await?;
    let before = env.query_count(ELSEWHERE).await?;
    ensure!(before > 0, "the stages have state");

    env.toml = format!("{stock}{PLACES}");
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    assert_eq!(env.query_count(ELSEWHERE).await?, 0, "it was moved");
    assert_eq!(lamps(&host.client).await?, Some(996), "products are read where the state is");
    cancelled(&host.client, "moved").await?;
    ready(&host.client, "new").await?;
    assert_eq!(lamps(&host.client).await?, Some(996), "two were released, two taken");
    host.stop().await?;

    let host = env.start_with(|builder| builder.clock(Arc::clone(&clock) as _)).await?;
    cancelled(&host.client, "new").await?;
    assert_eq!(lamps(&host.client).await?, Some(998));
    let (status, stocked) =
        host.client.post("/products", &json!({ "sku": "Lamp", "stock": 3 })).await?;
    ensure!(status.is_success(), "{stocked}");
    eventually("all deliveries to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    assert_eq!(env.query_count(ELSEWHERE).await?, 0, "nothing is written elsewhere");
    ensure!(env.query_count(OF_ORDERS).await? > 0, "orders have state");
    clock.advance(91 * DAY_MS);
    eventually("the state of deleted orders to be deleted", || async {
        Ok((env.query_count(OF_ORDERS).await? == 0).then_some(()))
    })
    .await?;
    ensure!(lamps(&host.client).await?.is_some(), "the stock stays");
    host.stop().await?;

    // Back again, with everything.
    env.toml = stock.to_owned();
    let host = env.start().await?;
    ensure!(lamps(&host.client).await?.is_some(), "the stock was moved back");
    let gone = "SELECT (SELECT count(*) FROM money.state) + (SELECT count(*) FROM warehouse.state)";
    assert_eq!(env.query_count(gone).await?, 0);
    host.stop().await
}

/// Settled deliveries of payment without the state that was written with them, or the other way round.
const TORN: &str = "SELECT (SELECT count(*) FROM deliveries WHERE stage = 'payment' AND status = 'done') - \
                    (SELECT count(*) FROM money.state WHERE value IS NOT NULL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_and_duplicate_no_effect_in_schemas_of_their_own() -> Result<()> {
    const KILLS: usize = 3;
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{AMPLE_STOCK}{PLACES}")).await?;
    let port = unused_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let mut host = HostProcess::start(&env, port, None)?;
    host.wait_until_ready(&client, &env).await?;
    let load = Load::start(std::slice::from_ref(&client), 4, Duration::from_millis(5));
    for _ in 0..KILLS {
        load.wait_for_accepted(30).await?;
        host.kill()?;
        assert_eq!(env.query_count(TORN).await?, 0, "one was committed without the other");
        ensure!(env.query_count("SELECT count(*) FROM money.state").await? > 0, "it has state");
        host = HostProcess::start(&env, port, None)?;
        host.wait_until_ready(&client, &env).await?;
    }
    load.wait_for_accepted(10).await?;
    let accepted = load.stop().await?;
    assert_every_effect_happened_once(&env, &client, &accepted).await?;
    assert_eq!(env.query_count(ELSEWHERE).await?, 0);
    host.kill()
}
