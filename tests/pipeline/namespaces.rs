//! Namespaces share a server, and nothing else.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;

async fn post(client: &Client, id: &str, user: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": user, "items": ["Book"], "total": 1 });
    let (status, told) = client.post("/orders", &order).await?;
    ensure!(status == StatusCode::ACCEPTED, "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_on_one_database_do_not_affect_each_other() -> Result<()> {
    let one = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let mut other = TestEnv::shipped(AMPLE_STOCK)?;
    other.servers = Some(one.servers.as_ref().context("servers")?.beside());
    let (here, there) = (one.start().await?, other.start().await?);
    // The same id in both, with different content.
    post(&here.client, "n-1", "here").await?;
    here.client.wait_for_status("n-1", "ready").await?;
    assert_eq!(there.client.get("/orders/n-1").await?.0, StatusCode::NOT_FOUND);
    let (status, _) = here.client.post("/stages/inventory/pause", &json!({})).await?;
    assert_eq!(status, StatusCode::OK);
    post(&there.client, "n-1", "there").await?;
    let order = there.client.wait_for_status("n-1", "ready").await?;
    assert_eq!(order["customer"], "there", "{order}");
    post(&here.client, "n-2", "here").await?;
    here.client.wait_for_status("n-2", "authorized").await?;
    assert_eq!(there.client.get_all("/orders?limit=10").await?.len(), 1);
    assert_eq!(here.client.get_all("/orders?limit=10").await?.len(), 2);
    // What waits for a retry or a restart is taken over by its own namespace only.
    here.stop().await?;
    eventually("the other namespace to be idle", || async {
        let (_, events) = there.client.get("/events?limit=100").await?;
        Ok(events["items"].as_array().is_some_and(|events| events.len() >= 5).then_some(()))
    })
    .await?;
    assert_eq!(
        other.query_count("SELECT count(*) FROM events WHERE subject_key = 'order/n-2'").await?,
        0
    );
    assert_eq!(
        one.query_count("SELECT count(*) FROM events WHERE subject_key = 'order/n-2'").await?,
        2
    );
    there.stop().await
}
