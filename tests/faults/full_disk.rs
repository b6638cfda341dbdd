//! A full disk: the host refuses orders with 503 instead of losing them, does not crash, and
//! completes accepted orders once there is space.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{Client, TestEnv};
use crate::support::process::{HostProcess, unused_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_orders_and_loses_none() -> Result<()> {
    let env = TestEnv::shipped("[stages.inventory.settings]\ndefault_stock = \"1000000\"\n")?;
    let port = unused_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    // The database may grow to 1 MB.
    let process = HostProcess::start(&env, port, Some(2_000))?;
    process.wait_until_ready(&client, &env).await?;
    let mut accepted = Vec::new();
    let refused = loop {
        let id = format!("d-{}", accepted.len());
        let order =
            json!({ "order_id": id, "user_id": "1", "items": ["Book"], "note": "x".repeat(2_000) });
        let (status, problem) = client.post("/orders", &order).await?;
        if !status.is_success() {
            break (status, problem);
        }
        accepted.push(id);
        anyhow::ensure!(accepted.len() < 5_000, "the disk never filled");
    };
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.1);
    assert_eq!(client.get("/health").await?.0, StatusCode::OK, "the process lives on");
    process.kill()?;
    let process = HostProcess::start(&env, port, None)?;
    process.wait_until_ready(&client, &env).await?;
    for id in &accepted {
        client.wait_for_status(id, "ready").await?;
    }
    assert_eq!(
        env.query_count("SELECT count(*) FROM attempts").await?,
        0,
        "an outage burns no attempts"
    );
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    process.kill()
}
