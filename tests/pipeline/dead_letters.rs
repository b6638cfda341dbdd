//! A failing delivery is retried by its policy, then becomes a dead letter with its attempts, which
//! an operator edits, replays or discards.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![
    failing_order_is_dead_lettered_after_retries_and_completes_after_an_edited_replay,
    unedited_replay_runs_again_and_discard_is_final
];

const QUICK: &str = "[stages.inventory.settings]\ndefault_stock = \"1000\"\n\
                     [stages.payment.retry]\nmax_attempts = 3\ninitial_ms = 20\nmax_ms = 50\n";

async fn dead_letter(host: &RunningHost) -> Result<Value> {
    eventually("a dead letter", || async {
        let (_, dead_letters) = host.client.get("/dead-letters").await?;
        Ok(dead_letters["items"].get(0).cloned())
    })
    .await
}

async fn failing_order_is_dead_lettered_after_retries_and_completes_after_an_edited_replay(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, QUICK).await?;
    let host = env.start().await?;
    let order = json!({ "order_id": "f1", "user_id": "42", "items": ["Book"], "total": 20.0, "force_fail": true });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("f1", "failed").await?;
    let dead_letter = dead_letter(&host).await?;
    assert_eq!(
        (dead_letter["stage"].as_str(), dead_letter["code"].as_str()),
        (Some("payment"), Some("simulated-failure"))
    );
    let path = format!("/dead-letters/{}", dead_letter["id"]);
    let (_, dead_letter) = host.client.get(&path).await?;
    let attempts: Vec<u64> = dead_letter["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .filter_map(|attempt| attempt["attempt"].as_u64())
        .collect();
    assert_eq!(attempts, [1, 2, 3]);

    let corrected = json!({ "data": { "order_id": "f1", "user_id": "42", "items": [{ "sku": "Book", "quantity": 1 }], "total": 20.0 } });
    assert!(host.client.post(&format!("{path}/replay"), &corrected).await?.0.is_success());
    host.client.wait_for_status("f1", "ready").await?;
    let (status, _) = host.client.post(&format!("{path}/replay"), &json!({})).await?;
    assert_eq!(status, StatusCode::CONFLICT, "a second replay must change nothing");
    host.stop().await
}

async fn unedited_replay_runs_again_and_discard_is_final(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, QUICK).await?;
    let host = env.start().await?;
    let order = json!({ "order_id": "f2", "user_id": "42", "items": ["Book"], "force_fail": true });
    host.client.post("/orders", &order).await?;
    let first = dead_letter(&host).await?;
    assert!(
        host.client
            .post(&format!("/dead-letters/{}/replay", first["id"]), &json!({}))
            .await?
            .0
            .is_success()
    );
    let second = eventually("the second dead letter", || async {
        let dead_letter = dead_letter(&host).await?;
        Ok((dead_letter["id"] != first["id"]).then_some(dead_letter))
    })
    .await?;
    let path = format!("/dead-letters/{}", second["id"]);
    assert!(
        host.client
            .post(&format!("{path}/discard"), &json!({ "reason": "a test" }))
            .await?
            .0
            .is_success()
    );
    assert_eq!(
        host.client.post(&format!("{path}/replay"), &json!({})).await?.0,
        StatusCode::CONFLICT
    );
    assert_eq!(host.client.get("/dead-letters/999999").await?.0, StatusCode::NOT_FOUND);
    host.stop().await
}
