//! The published contract never changes: it is compared byte for byte with the released one.

use crate::support::harness::root;

#[test]
fn published_wit_equals_the_released_wit() {
    let published = std::fs::read_to_string(root().join("wit/stage.wit")).expect("wit/stage.wit");
    let released = std::fs::read_to_string(root().join("tests/fixtures/released/stage-1.0.0.wit"))
        .expect("the released copy");
    assert!(
        published == released,
        "wit/stage.wit differs from the released 1.0.0: a published contract is extended beside, never edited"
    );
}

/// A guest compiled against 1.0.0 and never rebuilt: every later host must serve it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guest_compiled_against_1_0_0_still_serves() -> anyhow::Result<()> {
    let env = crate::support::harness::TestEnv::shipped(
        "[stages.inventory.settings]\ndefault_stock = \"10\"\n",
    )?;
    std::fs::copy(
        root().join("tests/fixtures/released/audit-for-1.0.0.wasm"),
        env.plugins().join("audit.wasm"),
    )?;
    let host = env.start().await?;
    host.client
        .post("/orders", &serde_json::json!({ "order_id": "1", "user_id": "1", "items": ["Book"] }))
        .await?;
    crate::support::harness::eventually("the old guest's event", || async {
        let (_, events) = host.client.get("/orders/1/events").await?;
        let noted = events["items"]
            .as_array()
            .is_some_and(|events| events.iter().any(|event| event["type"] == "audit.noted"));
        Ok(noted.then_some(()))
    })
    .await?;
    host.stop().await
}
